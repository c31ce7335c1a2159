{{ config(order_by='(cohort_week, week)') }}

with

cohorts as (
    select clerk_user_id, toMonday(day) as cohort_week
    from {{ ref('stg_users') }}
),

sizes as (
    select cohort_week, count() as cohort_users
    from cohorts
    group by cohort_week
),

weeks as (
    select distinct clerk_user_id, toMonday(day) as active_week
    from {{ ref('daily_user_activity') }}
),

span as (
    select min(active_week) as first_week, max(active_week) as last_week
    from weeks
),

{# Every week that a cohort could have been active in, also those in which nobody was. #}
possible as (
    select
        cohort_week,
        cohort_users,
        arrayJoin(range(toUInt32(intDiv(greatest(last_week - cohort_week, 0), 7) + 1))) as week
    from sizes, span
    where cohort_week + 7 * week between first_week and last_week
),

returned as (
    select cohorts.cohort_week as cohort_week, intDiv(weeks.active_week - cohorts.cohort_week, 7) as week, count() as active_users
    from weeks
    inner join cohorts on cohorts.clerk_user_id = weeks.clerk_user_id
    where weeks.active_week >= cohorts.cohort_week
    group by cohort_week, week
)

select
    possible.cohort_week as cohort_week,
    possible.week as week,
    possible.cohort_users as cohort_users,
    coalesce(returned.active_users, 0) as active_users,
    active_users / cohort_users as retention
from possible
left join returned on returned.cohort_week = possible.cohort_week and returned.week = possible.week
