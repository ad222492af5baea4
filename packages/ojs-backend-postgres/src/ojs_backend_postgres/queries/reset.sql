-- Remove everything but the sequences, which only grow.
-- Counting up waits, and then finds nothing.
LOCK TABLE ojs.counted IN EXCLUSIVE MODE;
DELETE FROM ojs.job;
DELETE FROM ojs.queue;
DELETE FROM ojs.counted;
DELETE FROM ojs.tally;
DELETE FROM ojs.minute;
DELETE FROM ojs.run;
DELETE FROM ojs.worker;
DELETE FROM ojs.cron;
DELETE FROM ojs.workflow;
DELETE FROM ojs.event;
DELETE FROM ojs.outbox;
