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

UPDATE accounting_schema SET version = 3;
