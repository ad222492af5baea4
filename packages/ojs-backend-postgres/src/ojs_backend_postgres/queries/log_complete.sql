-- Up to which number the log is complete, for a statement that begins after this one.
SELECT ojs.log_complete();
