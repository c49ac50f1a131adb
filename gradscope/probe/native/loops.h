/* The loops of passes.c, included once for each instruction set: NAMED adds its name, a pragma chooses it. */

INLINE vec NAMED(all_lanes)(float x) { return x - (vec){0}; }

INLINE vec NAMED(magnitude)(vec x) { return (vec)((ints)x & 0x7fffffff); }

INLINE double NAMED(add_up)(vec x) {
    double found = 0;
    for (int i = 0; i < LANES; i++) found += x[i];
    return found;
}

INLINE int64_t NAMED(count_up)(ints x) {
    int64_t found = 0;
    for (int i = 0; i < LANES; i++) found += x[i];
    return found;
}

INLINE vec NAMED(choose)(ints which, vec yes, vec no) { return (vec)((which & (ints)yes) | (~which & (ints)no)); }

INLINE vec NAMED(slope_of)(vec y, int phi, const Constants *c) {
    switch (phi) {
    case TANH: return 1.0f - y * y;
    case SIGMOID: return y * (1.0f - y);
    case LEAKY: return NAMED(choose)(y > 0, NAMED(all_lanes)(1.0f), NAMED(all_lanes)((float)c->slope));
    case ELU: return NAMED(choose)(y > 0, NAMED(all_lanes)((float)c->slope), (y + (float)c->shift) * (float)c->factor);
    default: return y;
    }
}

INLINE void NAMED(pass_block)(const float *p, int64_t n, int phi, int take, const Constants *c, Found *found) {
    vec sum[4] = {{0}}, squares[4] = {{0}}, slopes[2] = {{0}};
    ints zeros = {0}, small = {0};
    const vec threshold = NAMED(all_lanes)((float)c->threshold);
    const int curved = phi != PLAIN && phi != RELU;
    int64_t i = 0;
#define ONE(k)                                                                                                         \
    {                                                                                                                  \
        const vec x = *(const loose *)(p + i + LANES * (k));                                                           \
        if (take & TAKE_SUM) sum[k] += x;                                                                              \
        squares[k] += x * x;                                                                                           \
        if (take & TAKE_ZEROS) zeros -= x == 0;                                                                        \
        if (phi == RELU) small -= ~(x > 0);                                                                            \
        else if (curved) {                                                                                             \
            const vec s = NAMED(slope_of)(x, phi, c);                                                                  \
            slopes[(k) & 1] += s * s;                                                                                  \
            small -= NAMED(magnitude)(s) < threshold;                                                                  \
        } else if (take & TAKE_SMALL) small -= NAMED(magnitude)(x) <= threshold;                                       \
    }
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        ONE(0)
        ONE(1)
        ONE(2)
        ONE(3)
    }
    for (; i + LANES <= n; i += LANES) ONE(0)
#undef ONE
    double total = NAMED(add_up)((sum[0] + sum[1]) + (sum[2] + sum[3]));
    double power = NAMED(add_up)((squares[0] + squares[1]) + (squares[2] + squares[3]));
    double steep = curved ? NAMED(add_up)(slopes[0] + slopes[1]) : 0;
    found->zeros += take & TAKE_ZEROS ? NAMED(count_up)(zeros) : 0;
    found->small += take & TAKE_SMALL ? NAMED(count_up)(small) : 0;
    for (; i < n; i++) {
        const float x = p[i];
        total += x;
        power += (double)x * x;
        found->zeros += x == 0;
        if (phi == RELU) found->small += !(x > 0);
        else if (curved) {
            const float s = slope_narrow(x, phi, c);
            steep += (double)s * s;
            found->small += fabsf(s) < (float)c->threshold;
        } else found->small += fabsf(x) <= (float)c->threshold;
    }
    if (!is_safe(power, n)) {
        total = power = 0;
        for (i = 0; i < n; i++) total += p[i], power += (double)p[i] * p[i];
    }
    if (curved && !is_safe(steep, n)) {
        steep = 0;
        for (i = 0; i < n; i++) {
            const double s = slope_narrow(p[i], phi, c);
            steep += s * s;
        }
    }
    found->sum += total;
    found->squares += power;
    found->slopes += steep;
}

#define SPECIAL(name, phi, take)                                                                                       \
    static void NAMED(name)(const float *p, int64_t n, const Constants *c, Found *found) {                             \
        for (int64_t i = 0; i < n; i += BLOCK)                                                                         \
            NAMED(pass_block)(p + i, n - i < BLOCK ? n - i : BLOCK, phi, take, c, found);                              \
    }
SPECIAL(of_squares, PLAIN, 0)
SPECIAL(of_moments, PLAIN, TAKE_SUM)
SPECIAL(of_zeros, PLAIN, TAKE_ZEROS)
SPECIAL(of_counts, PLAIN, TAKE_ZEROS | TAKE_SMALL)
SPECIAL(of_all, PLAIN, TAKE_SUM | TAKE_ZEROS | TAKE_SMALL)
SPECIAL(of_relu, RELU, TAKE_SUM | TAKE_ZEROS | TAKE_SMALL)
SPECIAL(of_tanh, TANH, TAKE_SUM | TAKE_ZEROS | TAKE_SMALL)
SPECIAL(of_sigmoid, SIGMOID, TAKE_SUM | TAKE_ZEROS | TAKE_SMALL)
SPECIAL(of_leaky, LEAKY, TAKE_SUM | TAKE_ZEROS | TAKE_SMALL)
SPECIAL(of_elu, ELU, TAKE_SUM | TAKE_ZEROS | TAKE_SMALL)
#undef SPECIAL

/* Around the first sample: totals and sums of squares over samples, by column. */
#define SPREAD(name, type)                                                                                             \
    static void NAMED(name)(const void *from, const Columns *by, double *restrict passing) {                           \
        const type *restrict p = from;                                                                                 \
        const int64_t columns = by->columns, *restrict column = by->column;                                           \
        double *restrict total = passing, *restrict power = passing + columns;                                        \
        for (int64_t c = 0; c < columns; c++) total[c] = power[c] = 0;                                                 \
        for (int64_t s = 1; s < by->samples; s++) {                                                                    \
            const type *restrict q = p + s * by->apart;                                                                \
            if (by->together)                                                                                          \
                for (int64_t c = 0; c < columns; c++) {                                                                \
                    const double moved = (double)q[c] - (double)p[c];                                                  \
                    total[c] += moved, power[c] += moved * moved;                                                      \
                }                                                                                                      \
            else                                                                                                       \
                for (int64_t c = 0; c < columns; c++) {                                                                \
                    const double moved = (double)q[column[c]] - (double)p[column[c]];                                  \
                    total[c] += moved, power[c] += moved * moved;                                                      \
                }                                                                                                      \
        }                                                                                                              \
    }
SPREAD(spread_floats, float)
SPREAD(spread_doubles, double)
#undef SPREAD

/* Sums of squares of a sample that was kept, and of how it has changed. */
#define CHANGE(name, type)                                                                                             \
    static void NAMED(name)(const void *before, const void *now, int64_t count, int64_t stride, double *found) {       \
        const type *p = before, *q = now;                                                                              \
        double power[8] = {0}, moved[8] = {0};                                                                         \
        int64_t i = 0;                                                                                                 \
        for (; i + 8 <= count; i += 8)                                                                                 \
            for (int k = 0; k < 8; k++) {                                                                              \
                const double old = p[i + k], by = q[(i + k) * stride] - p[i + k];                                      \
                power[k] += old * old, moved[k] += by * by;                                                            \
            }                                                                                                          \
        for (; i < count; i++) {                                                                                       \
            const double old = p[i], by = q[i * stride] - p[i];                                                        \
            power[0] += old * old, moved[0] += by * by;                                                                \
        }                                                                                                              \
        for (int k = 0; k < 8; k++) found[0] += power[k], found[1] += moved[k];                                        \
    }
CHANGE(change_floats, float)
CHANGE(change_doubles, double)
#undef CHANGE

static const Loops NAMED(loops) = {
    {NAMED(of_squares), NAMED(of_moments), NAMED(of_zeros), NAMED(of_all), NAMED(of_all), NAMED(of_all),
     NAMED(of_counts), NAMED(of_all)},
    {NULL, NAMED(of_relu), NAMED(of_tanh), NAMED(of_sigmoid), NAMED(of_leaky), NAMED(of_elu)},
    NAMED(spread_floats),
    NAMED(spread_doubles),
    NAMED(change_floats),
    NAMED(change_doubles),
};
