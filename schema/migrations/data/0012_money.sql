-- The types of the billing tables.

-- An amount in minor units (kobo for NGN) of the currency beside it: ₦5,000.00 is 500000.
CREATE DOMAIN minor_units AS bigint CHECK (VALUE BETWEEN 0 AND 1000000000000000);
CREATE DOMAIN currency AS text CHECK (VALUE IN ('NGN', 'GHS', 'KES', 'ZAR', 'USD', 'GBP', 'EUR'));

-- A range that holds one id: a GiST index can compare ranges without an extension.
CREATE TYPE id_range AS RANGE (subtype = uuid);
