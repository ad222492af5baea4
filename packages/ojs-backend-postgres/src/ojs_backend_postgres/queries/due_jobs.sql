-- Jobs whose wake_at has come, earliest first.
-- $1: now, ms. $2: most jobs.
SELECT * FROM ojs.job WHERE wake_at <= $1 ORDER BY wake_at, seq, id COLLATE "POSIX" LIMIT $2;
