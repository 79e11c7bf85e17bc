-- What responses cost whose upstream reported no usage, estimated. In columns of their own: an
-- estimate is no part of what was reported.

ALTER TABLE usage_hourly ADD COLUMN estimated_prompt_tokens INTEGER NOT NULL DEFAULT 0;

ALTER TABLE usage_hourly ADD COLUMN estimated_completion_tokens INTEGER NOT NULL DEFAULT 0;
