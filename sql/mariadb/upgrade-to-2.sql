CREATE TABLE accounting_passes (
    pass_id INTEGER NOT NULL AUTO_INCREMENT,
    site_id INTEGER NOT NULL,
    verb VARCHAR(16) NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT,
    outcome VARCHAR(8) NOT NULL,
    done BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    problems BIGINT NOT NULL,
    message TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
    PRIMARY KEY (pass_id),
    CONSTRAINT accounting_passes_outcome CHECK (outcome IN ('running', 'done', 'failed')),
    FOREIGN KEY(site_id) REFERENCES accounting_sites (site_id)
)ENGINE=InnoDB;

CREATE TABLE accounting_forgotten (
    site_id INTEGER NOT NULL,
    digest VARCHAR(64) NOT NULL,
    salt VARCHAR(32) NOT NULL,
    pseudonym VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
    PRIMARY KEY (site_id, digest),
    FOREIGN KEY(site_id) REFERENCES accounting_sites (site_id)
)ENGINE=InnoDB;

UPDATE accounting_schema SET version = 2;
