-- What the business tables are made of.

-- An amount is a whole number of kobo, the smallest unit of its currency, which stands beside it: ₦5,000.00 is 500000.
CREATE DOMAIN kobo AS bigint CHECK (VALUE BETWEEN 0 AND 1000000000000000);
CREATE DOMAIN currency AS text CHECK (VALUE IN ('NGN', 'GHS', 'KES', 'ZAR', 'USD', 'GBP', 'EUR'));

-- An id as a range that holds it alone: what a GiST index can compare without an extension.
CREATE TYPE id_range AS RANGE (subtype = uuid);
