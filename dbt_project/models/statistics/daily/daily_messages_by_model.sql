{{ config(order_by='(provider, model)') }}

with said as (
    select
        day,
        provider,
        model,
        count() as messages,
        countIf(role = 'user') as questions,
        countIf(role = 'assistant') as answers,
        sumIf(tokens, role <> 'assistant') as input_tokens,
        sumIf(tokens, role = 'assistant') as output_tokens
    from {{ ref('stg_messages') }}
    where {{ built_days() }}
    group by day, provider, model
)

select
    said.day as day,
    said.provider as provider,
    said.model as model,
    said.messages as messages,
    said.questions as questions,
    said.answers as answers,
    said.input_tokens as input_tokens,
    said.output_tokens as output_tokens,
    said.input_tokens + said.output_tokens as tokens,
    toDecimal64(
        (
            toDecimal128(said.input_tokens, 8) * coalesce(prices.input_usd_per_million, 0)
            + toDecimal128(said.output_tokens, 8) * coalesce(prices.output_usd_per_million, 0)
        ) / 1000000,
        8
    ) as cost_usd,
    {{ built_at() }} as built_at
from said
left join {{ ref('model_prices') }} as prices
    on said.provider = prices.provider and said.model = prices.model
