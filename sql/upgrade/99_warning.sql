
DO $$
BEGIN
    IF to_regclass('cdi.storage') IS NOT NULL THEN
        -- a NOTICE of an extension script reaches nobody
        RAISE WARNING 'cdi is updated; run SELECT cdi_init() to bring its storage and views up to date';
    END IF;
END
$$;
