-- Add the changes since to the counts; true: there may be more. See migrations/0007_keep.sql.
SELECT ojs.count_up();
