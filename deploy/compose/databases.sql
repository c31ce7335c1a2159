-- The platform's second database, and the example application's.
create database dagster;
create database chronochat;
