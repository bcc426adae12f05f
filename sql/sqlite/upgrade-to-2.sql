CREATE TABLE accounting_passes (
    pass_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    site_id INTEGER NOT NULL,
    verb VARCHAR(16) NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT,
    outcome VARCHAR(8) NOT NULL,
    done BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    problems BIGINT NOT NULL,
    message TEXT NOT NULL,
    CONSTRAINT accounting_passes_outcome CHECK (outcome IN ('running', 'done', 'failed')),
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

UPDATE accounting_schema SET version = 2;
