SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';

CREATE TABLE accounting_days (
    day_start BIGINT NOT NULL,
    account_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (day_start, account_id, metric_id)
)ENGINE=InnoDB;

INSERT INTO accounting_days (day_start, account_id, metric_id, asked, used)
SELECT
    t.window_start - (t.window_start % 86400 + 86400) % 86400,
    t.account_id,
    t.metric_id,
    SUM(t.asked),
    SUM(t.used)
FROM accounting_totals t
JOIN accounting_accounts a ON a.account_id = t.account_id
JOIN accounting_sites s ON s.site_id = a.site_id
WHERE s.window_seconds < 86400 AND 86400 % s.window_seconds = 0
GROUP BY 1, 2, 3;

UPDATE accounting_schema SET version = 4;
