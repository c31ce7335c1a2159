{# A model's schema is a ClickHouse database; its name is exactly what the project says. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
