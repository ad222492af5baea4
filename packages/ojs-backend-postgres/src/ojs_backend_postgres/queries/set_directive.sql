-- Tell a worker what to do.
-- $1: worker. $2: directive (NULL: none).
UPDATE ojs.worker SET directive = $2 WHERE id = $1 RETURNING *;
