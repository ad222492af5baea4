-- Commit a group. See migrations/0004_commit.sql.
SELECT part, c, i, kind, was, places, (job).* FROM ojs.commit($1, $2, $3, $4, $5, $6, $7, $8, $9);
