-- Pause or resume a queue. See migrations/0007_keep.sql.
SELECT changed, (queue).* FROM ojs.set_paused($1, $2, $3, $4);
