-- One workflow.
-- $1: id.
SELECT record FROM ojs.workflow WHERE key = $1;
