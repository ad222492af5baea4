-- Take a heartbeat. See migrations/0007_keep.sql.
SELECT renewed, first_seen_at, beats, directive, (job).* FROM ojs.beat($1, $2, $3, $4, $5, $6);
