-- What the response cache has served, and the LLM tokens that this saved. In columns of their own:
-- nobody was charged for them.
--
-- Only where the columns are missing, as in 0002; all in one statement, so that none is there alone.

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'usage_hourly'
    AND column_name = 'cache_hits'
);
SET @change = IF(@missing, 'ALTER TABLE usage_hourly
    ADD COLUMN cache_hits BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN saved_prompt_tokens BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN saved_completion_tokens BIGINT NOT NULL DEFAULT 0', 'DO 0');
PREPARE change_usage FROM @change;
EXECUTE change_usage;
DEALLOCATE PREPARE change_usage;
