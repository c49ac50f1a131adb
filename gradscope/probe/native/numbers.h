/* What passes.c and its loops share: types, constants, functions of one entry. */
#ifndef NUMBERS_H
#define NUMBERS_H

#define INLINE static inline __attribute__((always_inline))
#define LANES 16
#define BLOCK 1024
/* A block below the first, an entry, may have lost small squares; one above the second is close to overflow. */
#define LOW 2e-32
#define HIGH 1e37

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Which function of what is saved; RESULT is the tensor itself. */
enum { PLAIN, RELU, TANH, SIGMOID, LEAKY, ELU, FUNCTIONS };
enum { TAKE_SUM = 1, TAKE_ZEROS = 2, TAKE_SMALL = 4 };

typedef struct {
    double sum, squares, slopes;
    int64_t zeros, small;
} Found;

typedef struct {
    double threshold, slope, shift, factor;
} Constants;

typedef struct {
    int64_t samples, apart, columns, *column;
    int together;
} Columns;

typedef void (*Loop)(const float *, int64_t, const Constants *, Found *);

/* By what is taken of the tensor itself, by function, and the spread over samples. */
typedef struct {
    Loop plain[8], phi[FUNCTIONS];
    void (*spread_floats)(const void *, const Columns *, double *);
    void (*spread_doubles)(const void *, const Columns *, double *);
    void (*change_floats)(const void *, const void *, int64_t, int64_t, double *);
    void (*change_doubles)(const void *, const void *, int64_t, int64_t, double *);
} Loops;

INLINE double slope_wide(double y, int phi, const Constants *c) {
    switch (phi) {
    case RELU: return y > 0;
    case TANH: return 1.0 - y * y;
    case SIGMOID: return y * (1.0 - y);
    case LEAKY: return y > 0 ? 1.0 : c->slope;
    case ELU: return y > 0 ? c->slope : (y + c->shift) * c->factor;
    default: return y;
    }
}

INLINE float slope_narrow(float y, int phi, const Constants *c) {
    switch (phi) {
    case RELU: return y > 0;
    case TANH: return 1.0f - y * y;
    case SIGMOID: return y * (1.0f - y);
    case LEAKY: return y > 0 ? 1.0f : (float)c->slope;
    case ELU: return y > 0 ? (float)c->slope : (y + (float)c->shift) * (float)c->factor;
    default: return y;
    }
}

INLINE int is_safe(double squares, int64_t count) { return squares > LOW * count && squares < HIGH; }

#endif
