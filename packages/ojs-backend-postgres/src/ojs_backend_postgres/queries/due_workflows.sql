-- Workflows whose wake_at has come, earliest first.
-- $1: now, ms. $2: most workflows.
SELECT record FROM ojs.workflow WHERE wake_at <= $1 ORDER BY wake_at, key LIMIT $2;
