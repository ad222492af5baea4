-- Forget a worker that was not seen since. See migrations/0007_keep.sql.
SELECT ojs.remove_worker($1, $2, $3, $4, $5, $6, $7, $8);
