.bail on

BEGIN;

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
)
 WITHOUT ROWID;

CREATE TABLE accounting_problems (
    site_id INTEGER NOT NULL,
    kind VARCHAR(8) NOT NULL,
    subject VARCHAR(255) NOT NULL,
    code VARCHAR(32) NOT NULL,
    message TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (site_id, kind, subject, code),
    CONSTRAINT accounting_problems_kind CHECK (kind IN ('job', 'metric', 'resource', 'site'))
);

ALTER TABLE accounting_sites ADD COLUMN grace BIGINT;

ALTER TABLE accounting_sites ADD COLUMN names VARCHAR(16);

ALTER TABLE accounting_sites ADD COLUMN property_since TEXT;

ALTER TABLE accounting_jobs ADD COLUMN name VARCHAR(255);

ALTER TABLE accounting_jobs ADD COLUMN exit_code INTEGER;

ALTER TABLE accounting_jobs ADD COLUMN nodes TEXT;

ALTER TABLE accounting_jobs ADD COLUMN reservation VARCHAR(16);

ALTER TABLE accounting_rates ADD COLUMN start_time BIGINT DEFAULT -9223372036854775807 NOT NULL;

ALTER TABLE accounting_totals ADD COLUMN site_id INTEGER;

ALTER TABLE accounting_days ADD COLUMN site_id INTEGER;

UPDATE accounting_totals SET site_id = COALESCE((
    SELECT m.site_id FROM accounting_metrics m WHERE m.metric_id = accounting_totals.metric_id
), 0);

UPDATE accounting_days SET site_id = COALESCE((
    SELECT m.site_id FROM accounting_metrics m WHERE m.metric_id = accounting_days.metric_id
), 0);

CREATE TABLE accounting_rates_new (
    site_id INTEGER NOT NULL,
    job_id BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    start_time BIGINT DEFAULT -9223372036854775807 NOT NULL,
    PRIMARY KEY (site_id, job_id, account_id, metric_id, start_time)
)
 WITHOUT ROWID;

INSERT INTO accounting_rates_new (site_id, job_id, account_id, metric_id, asked, used, start_time)
SELECT site_id, job_id, account_id, metric_id, asked, used, start_time FROM accounting_rates
ORDER BY site_id, job_id, account_id, metric_id, start_time;

DROP TABLE accounting_rates;

PRAGMA legacy_alter_table = ON;

ALTER TABLE accounting_rates_new RENAME TO accounting_rates;

PRAGMA legacy_alter_table = OFF;

CREATE TABLE accounting_totals_new (
    window_start BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    site_id INTEGER NOT NULL,
    PRIMARY KEY (site_id, window_start, account_id, metric_id),
    CHECK (typeof(asked) = 'integer'),
    CHECK (typeof(used) = 'integer')
)
 WITHOUT ROWID;

INSERT INTO accounting_totals_new (window_start, account_id, metric_id, asked, used, site_id)
SELECT window_start, account_id, metric_id, asked, used, site_id FROM accounting_totals
ORDER BY site_id, window_start, account_id, metric_id;

DROP TABLE accounting_totals;

PRAGMA legacy_alter_table = ON;

ALTER TABLE accounting_totals_new RENAME TO accounting_totals;

PRAGMA legacy_alter_table = OFF;

CREATE TABLE accounting_days_new (
    day_start BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    site_id INTEGER NOT NULL,
    PRIMARY KEY (site_id, day_start, account_id, metric_id),
    CHECK (typeof(asked) = 'integer'),
    CHECK (typeof(used) = 'integer')
)
 WITHOUT ROWID;

INSERT INTO accounting_days_new (day_start, account_id, metric_id, asked, used, site_id)
SELECT day_start, account_id, metric_id, asked, used, site_id FROM accounting_days
ORDER BY site_id, day_start, account_id, metric_id;

DROP TABLE accounting_days;

PRAGMA legacy_alter_table = ON;

ALTER TABLE accounting_days_new RENAME TO accounting_days;

PRAGMA legacy_alter_table = OFF;

UPDATE accounting_schema SET version = 6;

COMMIT;
