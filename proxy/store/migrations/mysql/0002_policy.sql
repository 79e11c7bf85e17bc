-- What a project or a token may do and how, as one JSON object. NULL: nothing was set.
--
-- Only where the column is missing, because a migration that was cut off half-way must be able to
-- run again. MariaDB has ADD COLUMN IF NOT EXISTS for this, MySQL has not; DO 0 does nothing.

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'projects' AND column_name = 'policy'
);
SET @change = IF(@missing, 'ALTER TABLE projects ADD COLUMN policy MEDIUMTEXT', 'DO 0');
PREPARE change_projects FROM @change;
EXECUTE change_projects;
DEALLOCATE PREPARE change_projects;

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'tokens' AND column_name = 'policy'
);
SET @change = IF(@missing, 'ALTER TABLE tokens ADD COLUMN policy MEDIUMTEXT', 'DO 0');
PREPARE change_tokens FROM @change;
EXECUTE change_tokens;
DEALLOCATE PREPARE change_tokens;
