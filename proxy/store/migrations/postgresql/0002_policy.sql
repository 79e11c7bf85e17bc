-- What a project or a token may do and how, as one JSON object. NULL: nothing was set.

ALTER TABLE projects ADD COLUMN policy TEXT;

ALTER TABLE tokens ADD COLUMN policy TEXT;
