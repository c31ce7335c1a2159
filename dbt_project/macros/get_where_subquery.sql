{# dbt's own macro, with one word more for `where` in YAML, which can't call macros: `requested_days()`. #}
{% macro get_where_subquery(relation) -%}
    {%- set where = (config.get('where') or '') | replace('requested_days()', in_requested_days()) -%}
    {%- if where -%}
        (select * from {{ relation }} where {{ where }}) as dbt_subquery
    {%- else -%}
        {{ relation }}
    {%- endif -%}
{%- endmacro %}
