/* A pass over tensors of one shape, and the row of numbers that it makes of each. Included by passes.c. */

/* What is taken of tensors of one shape, and the rows taken so far. */
typedef struct {
    PyObject_HEAD
    int wide, phi, take, counts_dead, counts_bins, codes, width;
    int code[16];
    Constants constants;
    int64_t entries, stride;
    /* Units: `outer` x `units` x `inner` entries; every `step`-th unit is sampled. */
    int64_t outer, units, inner, step, chosen;
    /* Columns of the spread over samples: where they lie in a sample, and how far samples lie apart. */
    Columns by;
    double *passing;
    double *rows, *shares;
    uint32_t *bins;
    Py_ssize_t size, room;
    /* Samples of tensors that are about to change. */
    char *kept;
    Py_ssize_t keeping, room_to_keep;
    PyObject *dtype, *shape;
} Pass;

static int64_t count_flat(const Pass *self, const void *p, int64_t unit, int exact) {
    int64_t flat = 0;
    const int phi = self->phi;
    for (int64_t o = 0; o < self->outer; o++) {
        const int64_t at = (o * self->units + unit) * self->inner;
        for (int64_t i = 0; i < self->inner; i++) {
            const double y = self->wide ? ((const double *)p)[at + i] : ((const float *)p)[at + i];
            int is_flat;
            switch (phi) {
            case RELU: is_flat = y <= 0; break;
            case TANH: is_flat = fabs(y) == 1; break;
            case SIGMOID: is_flat = y == 0 || y == 1; break;
            case LEAKY: is_flat = self->constants.slope == 0 && !(y > 0); break;
            default:
                is_flat = self->wide ? slope_wide(y, phi, &self->constants) == 0
                                     : slope_narrow((float)y, phi, &self->constants) == 0;
            }
            flat += is_flat;
            if (!is_flat && !exact) return 0;
        }
    }
    return flat;
}

/* Mean over columns of the standard deviation over samples, around the first sample: nothing cancels. */
static double spread(const Pass *self, const void *p) {
    const int64_t columns = self->by.columns, samples = self->by.samples;
    const double *total = self->passing, *power = self->passing + columns;
    (self->wide ? loops->spread_doubles : loops->spread_floats)(p, &self->by, self->passing);
    double found = 0;
    for (int64_t c = 0; c < columns; c++) {
        const double variance = (power[c] - total[c] * total[c] / samples) / (samples - 1);
        found += sqrt(variance < 0 ? 0 : variance);
    }
    return columns ? found / columns : 0;
}

/* Sign and exponent of a sample: 2^(LOWEST+i) <= x < 2^(LOWEST+i+1), the same of -x, zeros, not finite. */
static void count_bins(const Pass *self, const void *p, uint32_t *bins) {
    uint32_t count[512] = {0};
    memset(bins, 0, (2 * BINS + 2) * sizeof *bins);
    for (int64_t i = 0; i < self->entries; i += self->stride) {
        int sign, exponent;
        if (self->wide) {
            const double x = ((const double *)p)[i];
            if (!isfinite(x)) { bins[2 * BINS + 1]++; continue; }
            if (x == 0) { bins[2 * BINS]++; continue; }
            (void)frexp(x, &exponent);
            exponent = exponent - 1 - LOWEST;
            exponent = exponent < 0 ? 0 : exponent >= BINS ? BINS - 1 : exponent;
            bins[exponent + (x < 0 ? BINS : 0)]++;
            continue;
        }
        uint32_t bits;
        memcpy(&bits, (const float *)p + i, 4);
        if (bits & 0x7f800000 || !(bits & 0x7fffffff)) {
            count[bits >> 23]++;
            continue;
        }
        sign = bits >> 31, exponent = 31 - __builtin_clz(bits & 0x7fffffff);
        bins[exponent + (sign ? BINS : 0)]++;
    }
    for (int sign = 0; sign < 2 && !self->wide; sign++) {
        for (int e = 1; e < 255; e++) bins[sign * BINS + e - 127 - LOWEST] += count[256 * sign + e];
        bins[2 * BINS] += count[256 * sign];
        bins[2 * BINS + 1] += count[256 * sign + 255];
    }
}

/* What a number of a row is of: the low bits tell the statistic, SLOPE that it is of the slope. */
enum { MOMENTS, SQUARES, ZEROS, SMALL, POWER, SPREAD_OVER, SLOPE = 8 };
static const int WIDTH[] = {4, 2, 2, 2, 2, 2};

static void emit(const Pass *self, const void *p, const Found *f, double *row) {
    const double n = (double)self->entries;
    for (int k = 0; k < self->codes; k++) {
        const int code = self->code[k], of_slope = code & SLOPE;
        row[0] = n;
        switch (code & 7) {
        case MOMENTS: {
            const double mean = f->sum / n;
            double deviations = f->squares - f->sum * mean;
            if (deviations < CANCELLED * f->squares) deviations = centred(p, self->entries, self->wide, mean);
            row[1] = f->sum, row[2] = f->squares, row[3] = deviations < 0 ? 0 : deviations;
            break;
        }
        case SQUARES:
        case POWER:
            row[1] = !of_slope ? f->squares : self->phi == RELU ? n - (double)f->small : f->slopes;
            break;
        case ZEROS: row[1] = (double)f->zeros; break;
        case SMALL: row[1] = (double)(of_slope ? f->small : f->small - f->zeros); break;
        default:
            row[0] = row[1] = 0;
            if (self->by.samples > 1) {
                row[0] = (double)(self->by.samples * self->by.columns);
                row[1] = row[0] * spread(self, p);
            }
        }
        row += WIDTH[code & 7];
    }
}

static int make_room(Pass *self) {
    if (self->size < self->room) return 0;
    const Py_ssize_t room = self->room ? 2 * self->room : 4;
    double *rows = PyMem_Realloc(self->rows, room * (self->width + 1) * sizeof(double));
    if (rows == NULL) return -1;
    self->rows = rows;
    if (self->counts_dead) {
        double *shares = PyMem_Realloc(self->shares, room * (self->chosen + 1) * sizeof(double));
        if (shares == NULL) return -1;
        self->shares = shares;
    }
    if (self->counts_bins) {
        uint32_t *bins = PyMem_Realloc(self->bins, room * (2 * BINS + 2) * sizeof *bins);
        if (bins == NULL) return -1;
        self->bins = bins;
    }
    self->room = room;
    return 0;
}
