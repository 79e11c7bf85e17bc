-- What the response cache has served, and the LLM tokens that this saved. In columns of their own:
-- nobody was charged for them.

ALTER TABLE usage_hourly ADD COLUMN cache_hits INTEGER NOT NULL DEFAULT 0;

ALTER TABLE usage_hourly ADD COLUMN saved_prompt_tokens INTEGER NOT NULL DEFAULT 0;

ALTER TABLE usage_hourly ADD COLUMN saved_completion_tokens INTEGER NOT NULL DEFAULT 0;
