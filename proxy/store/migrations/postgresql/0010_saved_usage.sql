-- What the response cache has served, and the LLM tokens that this saved. In columns of their own:
-- nobody was charged for them.

ALTER TABLE usage_hourly ADD COLUMN cache_hits BIGINT NOT NULL DEFAULT 0;

ALTER TABLE usage_hourly ADD COLUMN saved_prompt_tokens BIGINT NOT NULL DEFAULT 0;

ALTER TABLE usage_hourly ADD COLUMN saved_completion_tokens BIGINT NOT NULL DEFAULT 0;
