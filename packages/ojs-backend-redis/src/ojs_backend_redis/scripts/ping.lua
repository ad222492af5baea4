-- Tells whether Redis takes writes, without one: `MAY_WRITE` stands in front of it.
--
-- KEYS[1]: the key of the store, so that the node of a cluster that has it is asked.
--
-- Result: 1.

return 1
