{# Rows whose values in `columns` are not their own; of the requested days only, where the model has days. #}
{% test unique_together(model, columns, day_column='day') %}
select {{ columns | join(', ') }}, count() as rows
from {{ model }}
where {{ in_requested_days(day_column) if day_column else 'true' }}
group by {{ columns | join(', ') }}
having rows > 1
{% endtest %}
