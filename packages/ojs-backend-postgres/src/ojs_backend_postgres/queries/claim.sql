-- Serve claims. See migrations/0006_claim.sql.
SELECT r, expired, (job).* FROM ojs.claim($1, $2, $3);
