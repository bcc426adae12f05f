CREATE TABLE accounting_adjusted (
    adjustment_id INTEGER NOT NULL,
    line INTEGER NOT NULL,
    account_id INTEGER NOT NULL,
    metric VARCHAR(63) NOT NULL,
    job_id BIGINT,
    start_time BIGINT NOT NULL,
    stop_time BIGINT NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (adjustment_id, line)
);

CREATE TABLE accounting_attributes (
    site_id INTEGER NOT NULL,
    attribute VARCHAR(63) NOT NULL,
    name VARCHAR(255) NOT NULL,
    valid_from BIGINT NOT NULL,
    valid_to BIGINT,
    kind VARCHAR(8) NOT NULL,
    value VARCHAR(255) NOT NULL,
    PRIMARY KEY (site_id, attribute, name, valid_from),
    CONSTRAINT accounting_attributes_kind CHECK (kind IN ('user', 'project'))
);

CREATE TABLE accounting_days (
    day_start BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    site_id INTEGER NOT NULL,
    PRIMARY KEY (site_id, day_start, account_id, metric_id)
);

CREATE TABLE accounting_entries (
    site_id INTEGER NOT NULL,
    job_id BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    window_start BIGINT NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (site_id, job_id, account_id, metric_id, window_start)
);

CREATE INDEX accounting_entries_times ON accounting_entries (site_id, window_start);

CREATE TABLE accounting_jobs (
    site_id INTEGER NOT NULL,
    job_id BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL,
    submission_time BIGINT NOT NULL,
    start_time BIGINT NOT NULL,
    stop_time BIGINT NOT NULL,
    walltime BIGINT NOT NULL,
    types TEXT NOT NULL,
    closed SMALLINT NOT NULL,
    unsettled SMALLINT NOT NULL,
    reach SMALLINT DEFAULT 63 NOT NULL,
    name VARCHAR(255),
    exit_code INTEGER,
    nodes TEXT,
    reservation VARCHAR(16),
    PRIMARY KEY (site_id, job_id)
);

CREATE INDEX accounting_jobs_times ON accounting_jobs (site_id, reach, start_time);

CREATE INDEX accounting_jobs_unsettled ON accounting_jobs (site_id, unsettled) WHERE unsettled = 1;

CREATE TABLE accounting_openings (
    site_id INTEGER NOT NULL,
    window_start BIGINT NOT NULL,
    window_stop BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    covered_asked BIGINT NOT NULL,
    covered_used BIGINT NOT NULL,
    PRIMARY KEY (site_id, window_start, window_stop, account_id)
);

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
);

CREATE TABLE accounting_rates (
    site_id INTEGER NOT NULL,
    job_id BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    start_time BIGINT DEFAULT -9223372036854775807 NOT NULL,
    PRIMARY KEY (site_id, job_id, account_id, metric_id, start_time)
);

CREATE TABLE accounting_schema (
    version SERIAL NOT NULL,
    PRIMARY KEY (version)
);

CREATE TABLE accounting_sites (
    site_id SERIAL NOT NULL,
    name VARCHAR(255) NOT NULL,
    window_seconds BIGINT NOT NULL,
    dimension VARCHAR(255) NOT NULL,
    profile VARCHAR(16) NOT NULL,
    containers VARCHAR(16) NOT NULL,
    unfinished VARCHAR(100) NOT NULL,
    high_water_mark BIGINT NOT NULL,
    purged_before BIGINT,
    last_pass BIGINT,
    grace BIGINT,
    names VARCHAR(16),
    property_since TEXT,
    PRIMARY KEY (site_id),
    CONSTRAINT accounting_sites_name UNIQUE (name)
);

CREATE TABLE accounting_spans (
    site_id INTEGER NOT NULL,
    job_id BIGINT NOT NULL,
    asked SMALLINT NOT NULL,
    start_time BIGINT NOT NULL,
    stop_time BIGINT,
    PRIMARY KEY (site_id, job_id, asked, start_time)
);

CREATE TABLE accounting_totals (
    window_start BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    site_id INTEGER NOT NULL,
    PRIMARY KEY (site_id, window_start, account_id, metric_id)
);

CREATE TABLE accounting_accounts (
    account_id SERIAL NOT NULL,
    site_id INTEGER NOT NULL,
    user_name VARCHAR(255) NOT NULL,
    project VARCHAR(255) NOT NULL,
    queue_name VARCHAR(255) NOT NULL,
    property_value VARCHAR(255) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    PRIMARY KEY (account_id),
    CONSTRAINT accounting_accounts_names UNIQUE (site_id, digest),
    FOREIGN KEY(site_id) REFERENCES accounting_sites (site_id)
);

CREATE TABLE accounting_adjustments (
    adjustment_id SERIAL NOT NULL,
    site_id INTEGER NOT NULL,
    posted BIGINT NOT NULL,
    author VARCHAR(255) NOT NULL,
    reason TEXT NOT NULL,
    counters INTEGER,
    PRIMARY KEY (adjustment_id),
    CONSTRAINT accounting_adjustments_counters UNIQUE (counters),
    FOREIGN KEY(site_id) REFERENCES accounting_sites (site_id)
);

CREATE TABLE accounting_forgotten (
    site_id INTEGER NOT NULL,
    digest VARCHAR(64) NOT NULL,
    salt VARCHAR(32) NOT NULL,
    pseudonym VARCHAR(255) NOT NULL,
    PRIMARY KEY (site_id, digest),
    FOREIGN KEY(site_id) REFERENCES accounting_sites (site_id)
);

CREATE TABLE accounting_metrics (
    metric_id SERIAL NOT NULL,
    site_id INTEGER NOT NULL,
    name VARCHAR(63) NOT NULL,
    unit VARCHAR(255) NOT NULL,
    scale BIGINT NOT NULL,
    definition TEXT NOT NULL,
    digest VARCHAR(64) NOT NULL,
    state VARCHAR(8) NOT NULL,
    PRIMARY KEY (metric_id),
    CONSTRAINT accounting_metrics_name UNIQUE (site_id, name, state),
    CONSTRAINT accounting_metrics_state CHECK (state IN ('active', 'building')),
    FOREIGN KEY(site_id) REFERENCES accounting_sites (site_id)
);

CREATE TABLE accounting_passes (
    pass_id SERIAL NOT NULL,
    site_id INTEGER NOT NULL,
    verb VARCHAR(16) NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT,
    outcome VARCHAR(8) NOT NULL,
    done BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    problems BIGINT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (pass_id),
    CONSTRAINT accounting_passes_outcome CHECK (outcome IN ('running', 'done', 'failed')),
    FOREIGN KEY(site_id) REFERENCES accounting_sites (site_id)
);

INSERT INTO accounting_schema (version) VALUES (6);
