{# The UTC days that this run was asked to build, as ISO dates; none means all. #}
{% macro requested_days() %}
    {%- set days = var('days', []) or [] -%}
    {%- if days is string or days is mapping -%}
        {{ exceptions.raise_compiler_error("var 'days' is " ~ days ~ "; allowed: a list of ISO dates. Pass --vars '{\"days\": [\"2026-01-31\"]}'.") }}
    {%- endif -%}
    {%- for day in days if not modules.re.fullmatch('[0-9]{4}-[0-9]{2}-[0-9]{2}', day | string) -%}
        {{ exceptions.raise_compiler_error("var 'days' has " ~ day ~ "; allowed: ISO dates. Pass --vars '{\"days\": [\"2026-01-31\"]}'.") }}
    {%- endfor -%}
    {{ return(days | map('string') | unique | sort | list) }}
{% endmacro %}


{# A condition: the column is one of those days. #}
{% macro in_requested_days(column='day') %}
    {%- set days = requested_days() -%}
    {%- if not days -%} true
    {%- else -%} {{ column }} in (
        {%- for day in days %}toDate('{{ day }}'){{ ', ' if not loop.last }}{% endfor -%} )
    {%- endif -%}
{% endmacro %}


{# The days that a model computes: a table that is not there yet, or is refreshed, gets all of them. #}
{% macro built_days(column='day') %}
    {%- if is_incremental() -%} {{ in_requested_days(column) }} {%- else -%} true {%- endif -%}
{% endmacro %}


{# When this run began: every row that it wrote says so. #}
{% macro built_at() -%}
    toDateTime64('{{ run_started_at.strftime("%Y-%m-%d %H:%M:%S.%f") }}', 6, 'UTC')
{%- endmacro %}


{# After insert_overwrite: a day that got no rows this time still has those of an earlier run; drop them. #}
{% macro drop_emptied_days() %}
    {%- if execute -%}
        {%- set stale -%}
            select distinct toString(day) as emptied from {{ this }} where {{ in_requested_days() }} and built_at <> {{ built_at() }}
        {%- endset -%}
        {%- set days = run_query(stale).columns['emptied'].values() -%}
        {%- if days -%}
            alter table {{ this }} {% for day in days %}drop partition '{{ day }}'{{ ', ' if not loop.last }}{% endfor %}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}
