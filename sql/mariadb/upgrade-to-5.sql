SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';

ALTER TABLE accounting_jobs ADD COLUMN reach SMALLINT NOT NULL DEFAULT 63;

UPDATE accounting_jobs SET reach = CASE
    WHEN closed = 0 THEN 63
    WHEN stop_time - start_time < 4096 AND walltime < 4096 THEN 12
    WHEN stop_time - start_time < 8192 AND walltime < 8192 THEN 13
    WHEN stop_time - start_time < 16384 AND walltime < 16384 THEN 14
    WHEN stop_time - start_time < 32768 AND walltime < 32768 THEN 15
    WHEN stop_time - start_time < 65536 AND walltime < 65536 THEN 16
    WHEN stop_time - start_time < 131072 AND walltime < 131072 THEN 17
    WHEN stop_time - start_time < 262144 AND walltime < 262144 THEN 18
    WHEN stop_time - start_time < 524288 AND walltime < 524288 THEN 19
    WHEN stop_time - start_time < 1048576 AND walltime < 1048576 THEN 20
    WHEN stop_time - start_time < 2097152 AND walltime < 2097152 THEN 21
    WHEN stop_time - start_time < 4194304 AND walltime < 4194304 THEN 22
    WHEN stop_time - start_time < 8388608 AND walltime < 8388608 THEN 23
    WHEN stop_time - start_time < 16777216 AND walltime < 16777216 THEN 24
    WHEN stop_time - start_time < 33554432 AND walltime < 33554432 THEN 25
    WHEN stop_time - start_time < 67108864 AND walltime < 67108864 THEN 26
    WHEN stop_time - start_time < 134217728 AND walltime < 134217728 THEN 27
    WHEN stop_time - start_time < 268435456 AND walltime < 268435456 THEN 28
    WHEN stop_time - start_time < 536870912 AND walltime < 536870912 THEN 29
    WHEN stop_time - start_time < 1073741824 AND walltime < 1073741824 THEN 30
    WHEN stop_time - start_time < 2147483648 AND walltime < 2147483648 THEN 31
    ELSE 63
END;

CREATE INDEX accounting_entries_times ON accounting_entries (site_id, window_start);

CREATE INDEX accounting_jobs_times ON accounting_jobs (site_id, reach, start_time);

UPDATE accounting_schema SET version = 5;
