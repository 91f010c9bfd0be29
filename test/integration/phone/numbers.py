"""Phone numbers in the ways that people write them, and what Google's
libphonenumber (its port to Python) makes of them: lines of COPY with country
code or nothing, text, and E.164 or nothing.

Left out is what docs/identity.md says cdi does not decide: numbers that
libphonenumber itself calls invalid, and those of Argentina as they are written
there.
"""
import random
import sys

import phonenumbers
from phonenumbers import PhoneNumberFormat as Format
from phonenumbers import PhoneNumberType as Type

# 15 within the country is 9 behind its code, at another place
NOT_NATIONAL = {"AR"}
TYPES = (Type.FIXED_LINE, Type.MOBILE)


def numbers(per_type):
    """Valid numbers of every region, beside its example numbers"""
    random.seed(20260131)
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in TYPES:
            example = phonenumbers.example_number_for_type(region, kind)
            if example is None:
                continue
            yield region, example
            digits = phonenumbers.national_significant_number(example)
            made = tries = 0
            while made < per_type and tries < 200:
                tries += 1
                keep = random.randint(2, len(digits) - 2)
                text = "+%d%s%s" % (example.country_code, digits[:keep],
                                    "".join(random.choice("0123456789") for _ in digits[keep:]))
                number = phonenumbers.parse(text)
                if phonenumbers.is_valid_number_for_region(number, region):
                    made += 1
                    yield region, number


def lines(per_type):
    for region, number in numbers(per_type):
        e164 = phonenumbers.format_number(number, Format.E164)
        if len(e164) < 8 or len(e164) > 16:
            continue
        international = phonenumbers.format_number(number, Format.INTERNATIONAL)
        code = str(number.country_code)
        for text in (e164, international, international.replace(" ", "/"), "00" + e164[1:],
                     " (%s) %s" % (e164[:len(code) + 1], e164[len(code) + 1:])):
            # libphonenumber must agree that this is the number
            assert text.startswith("00") or phonenumbers.parse(text) == phonenumbers.parse(e164), text
            yield "", text, e164
        if region in NOT_NATIONAL:
            continue
        national = phonenumbers.format_number(number, Format.NATIONAL)
        for text in (national, national.replace("-", " "), e164, international):
            yield code, text, e164 if phonenumbers.parse(text, region) == number else None
        metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
        if metadata.national_prefix == "0":
            text = "+%s (0) %s" % (code, e164[len(code) + 1:])
            try:
                if phonenumbers.parse(text) == number:
                    yield "", text, e164
            except phonenumbers.NumberParseException:
                pass


def unassigned():
    """Country codes that are none, and that none begins with"""
    codes = [str(code) for code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE]
    for code in map(str, range(1, 1000)):
        if not any(known.startswith(code) or code.startswith(known) for known in codes):
            yield "+%s 12345678" % code


for code, text, e164 in lines(int(sys.argv[1])):
    if e164 is not None:
        print("%s\t%s\t%s" % (code or r"\N", text, e164))
for text in unassigned():
    print("\\N\t%s\t\\N" % text)
