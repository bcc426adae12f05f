-- The roles of oar-accounting, each with no more than it needs:
--
--   oar_accounting_owner    creates our tables: init, and the upgrades to come
--   oar_accounting_writer   reads OAR and writes our tables: catch-up, record, rebuild ...
--   oar_accounting_reader   reads our tables: usage, verify ...
--   oar_accounting_karma    reads both, and writes neither: what OAR 2's scheduler asks
--
-- None of them may change OAR's tables. OAR's own reader, oar_ro, may read ours too.
--
-- Run it as root in the database of our tables, before "oar-accounting init" and again after it and
-- after every upgrade, because rights on a table can only be given once it is there; and in OAR's
-- database where that is another one. It may be run again at any time:
--
--   mariadb oar < roles.sql
--
-- Nobody can log in as these roles. Grant them to users of your own, each with its role as the
-- default one, such as
--
--   CREATE USER accounting_init@localhost IDENTIFIED BY '...';
--   GRANT oar_accounting_owner TO accounting_init@localhost;
--   SET DEFAULT ROLE oar_accounting_owner FOR accounting_init@localhost;
--   CREATE USER accounting_catch_up@localhost IDENTIFIED BY '...';
--   GRANT oar_accounting_writer TO accounting_catch_up@localhost;
--   SET DEFAULT ROLE oar_accounting_writer FOR accounting_catch_up@localhost;
--   CREATE USER accounting_usage@localhost IDENTIFIED BY '...';
--   GRANT oar_accounting_reader TO accounting_usage@localhost;
--   SET DEFAULT ROLE oar_accounting_reader FOR accounting_usage@localhost;
--   CREATE USER accounting_karma@localhost IDENTIFIED BY '...';
--   GRANT oar_accounting_karma TO accounting_karma@localhost;
--   SET DEFAULT ROLE oar_accounting_karma FOR accounting_karma@localhost;

-- Under ORACLE, which may be the server's default, the blocks below would be written otherwise.
SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';

CREATE ROLE IF NOT EXISTS oar_accounting_owner;
CREATE ROLE IF NOT EXISTS oar_accounting_writer;
CREATE ROLE IF NOT EXISTS oar_accounting_reader;
CREATE ROLE IF NOT EXISTS oar_accounting_karma;

DELIMITER //

-- -- our tables -------------------------------------------------------------------------------

BEGIN NOT ATOMIC
    FOR ours IN (
        WITH listed (name) AS (
            VALUES
                ('accounting_accounts'),
                ('accounting_adjusted'),
                ('accounting_adjustments'),
                ('accounting_attributes'),
                ('accounting_days'),
                ('accounting_entries'),
                ('accounting_forgotten'),
                ('accounting_jobs'),
                ('accounting_metrics'),
                ('accounting_openings'),
                ('accounting_passes'),
                ('accounting_problems'),
                ('accounting_purged'),
                ('accounting_rates'),
                ('accounting_schema'),
                ('accounting_sites'),
                ('accounting_spans'),
                ('accounting_totals')
        )
        SELECT name, t.table_name IS NOT NULL AS is_there
        FROM listed
        LEFT JOIN information_schema.tables t
            ON t.table_schema = DATABASE() AND t.table_name = name
    ) DO
        -- The right to CREATE a table of this name; all others of the database are OAR's.
        EXECUTE IMMEDIATE CONCAT(
            'GRANT CREATE, ALTER, DROP, INDEX, REFERENCES, SELECT, INSERT, UPDATE, DELETE ON ',
            ours.name, ' TO oar_accounting_owner'
        );
        IF ours.is_there THEN
            EXECUTE IMMEDIATE CONCAT(
                'GRANT SELECT, INSERT, UPDATE, DELETE ON ', ours.name, ' TO oar_accounting_writer'
            );
            EXECUTE IMMEDIATE CONCAT(
                'GRANT SELECT ON ', ours.name, ' TO oar_accounting_reader, oar_accounting_karma'
            );
            FOR reader IN (SELECT host FROM mysql.user WHERE user = 'oar_ro') DO
                EXECUTE IMMEDIATE CONCAT(
                    'GRANT SELECT ON ', ours.name, ' TO oar_ro@', QUOTE(reader.host)
                );
            END FOR;
        END IF;
    END FOR;
END //

-- -- OAR's tables, where they are -------------------------------------------------------------

BEGIN NOT ATOMIC
    FOR oars IN (
        SELECT table_name AS name
        FROM information_schema.tables
        WHERE table_schema = DATABASE() AND table_name IN (
            'accounting', 'assigned_resources', 'event_logs', 'job_resource_descriptions',
            'job_resource_groups', 'job_state_logs', 'job_types', 'jobs', 'moldable_job_descriptions',
            'queues', 'resource_logs', 'resources'
        )
    ) DO
        EXECUTE IMMEDIATE CONCAT(
            'GRANT SELECT ON ', oars.name, ' TO oar_accounting_writer, oar_accounting_karma'
        );
    END FOR;
END //

DELIMITER ;
