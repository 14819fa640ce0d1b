-- How PostgreSQL itself stores the rows of schema 1.
-- Ordinary mail stays in its row, whole; nobody compresses what is base64 already.
ALTER TABLE message SET (toast_tuple_target = 8160);
ALTER TABLE message ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE body ALTER COLUMN data SET STORAGE EXTERNAL;
-- Rows come and go: what is dead is cleared away often and without pauses.
ALTER TABLE message SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE body SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE intake_batch SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE routed SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE recipient SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
