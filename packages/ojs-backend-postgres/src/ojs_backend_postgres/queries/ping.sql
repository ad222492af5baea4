-- No row, so no change and no trace; yet it is refused where changes are, by a standby or a read-only database.
DELETE FROM ojs.queue WHERE false;
