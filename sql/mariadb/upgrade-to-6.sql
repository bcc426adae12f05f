-- Stop catch-up and the hooks first: what they write meanwhile may make this fail.
-- What was interrupted is finished by: oar-accounting init

SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';

CREATE TABLE accounting_purged (
    site_id INTEGER NOT NULL,
    job_id BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    day_start BIGINT NOT NULL,
    rate BIGINT NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (site_id, job_id, account_id, metric_id, day_start)
)ENGINE=InnoDB;

CREATE TABLE accounting_problems (
    site_id INTEGER NOT NULL,
    kind VARCHAR(8) NOT NULL,
    subject VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
    code VARCHAR(32) NOT NULL,
    message TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (site_id, kind, subject, code),
    CONSTRAINT accounting_problems_kind CHECK (kind IN ('job', 'metric', 'resource', 'site'))
)ENGINE=InnoDB;

ALTER TABLE accounting_sites ADD COLUMN grace BIGINT;

ALTER TABLE accounting_sites ADD COLUMN names VARCHAR(16);

ALTER TABLE accounting_sites ADD COLUMN property_since TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

ALTER TABLE accounting_jobs ADD COLUMN name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

ALTER TABLE accounting_jobs ADD COLUMN exit_code INTEGER;

ALTER TABLE accounting_jobs ADD COLUMN nodes TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

ALTER TABLE accounting_jobs ADD COLUMN reservation VARCHAR(16);

ALTER TABLE accounting_rates ADD COLUMN start_time BIGINT NOT NULL DEFAULT -9223372036854775807;

ALTER TABLE accounting_totals ADD COLUMN site_id INTEGER;

ALTER TABLE accounting_days ADD COLUMN site_id INTEGER;

UPDATE accounting_totals SET site_id = COALESCE((
    SELECT m.site_id FROM accounting_metrics m WHERE m.metric_id = accounting_totals.metric_id
), 0);

UPDATE accounting_days SET site_id = COALESCE((
    SELECT m.site_id FROM accounting_metrics m WHERE m.metric_id = accounting_days.metric_id
), 0);

ALTER TABLE accounting_rates
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (site_id, job_id, account_id, metric_id, start_time);

ALTER TABLE accounting_totals
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (site_id, window_start, account_id, metric_id);

ALTER TABLE accounting_days
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (site_id, day_start, account_id, metric_id);

UPDATE accounting_schema SET version = 6;
