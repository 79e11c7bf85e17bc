-- What responses cost whose upstream reported no usage, estimated. In columns of their own: an
-- estimate is no part of what was reported.
--
-- Only where the columns are missing, as in 0002; both in one statement, so that none is there alone.

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'usage_hourly'
    AND column_name = 'estimated_prompt_tokens'
);
SET @change = IF(@missing, 'ALTER TABLE usage_hourly
    ADD COLUMN estimated_prompt_tokens BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN estimated_completion_tokens BIGINT NOT NULL DEFAULT 0', 'DO 0');
PREPARE change_usage FROM @change;
EXECUTE change_usage;
DEALLOCATE PREPARE change_usage;
