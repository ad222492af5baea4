-- Which fingerprints any job has.
-- ?1: JSON array of fingerprints.
SELECT json_group_array(value)
FROM json_each(?1)
WHERE EXISTS (SELECT 1 FROM jobs INDEXED BY hold WHERE fingerprint = value);
