
DO $$
BEGIN
    IF to_regclass('cdi.storage') IS NOT NULL THEN
        RAISE NOTICE 'cdi is updated; run SELECT cdi_init() to bring its storage and views up to date';
    END IF;
END
$$;
