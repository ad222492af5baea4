-- Jobs by id, in any order.
-- $1: ids.
SELECT * FROM ojs.job WHERE id = ANY ($1::text[]);
