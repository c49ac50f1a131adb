/* Statistics of a tensor in one pass over its memory, while that lies in the cache.

Optional: where no C compiler was at hand, gradscope.probe.statistics gives the same numbers with numpy. A float32 sum
runs over blocks of 1024 entries in float32, these are added up in float64; a block whose sum of squares leaves the safe
range of float32 is read again in float64. Counts are of all entries.
*/
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef __GNUC__
#error "vector extensions of GCC or Clang are needed; without this module numpy does the work"
#endif

#include "numbers.h"

#define BINS 277
#define LOWEST (-149)
/* From so many entries on, other threads of Python run meanwhile. */
#define RELEASE (1 << 18)
#define CANCELLED 0.1

#define NAMED(name) name##_plain
#include "loops.h"
#undef NAMED

/* Not by target_clones: GCC splits wide vectors before it clones. */
#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define NAMED(name) name##_avx2
#include "loops.h"
#undef NAMED
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#define NAMED(name) name##_avx512
#include "loops.h"
#undef NAMED
#pragma GCC pop_options
#endif

static const Loops *loops = &loops_plain;

static const Loops *best_loops(void) {
#if defined(__x86_64__) && !defined(__clang__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &loops_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &loops_avx2;
#endif
    return &loops_plain;
}

static void floats(const float *p, int64_t n, int phi, int take, const Constants *c, Found *found) {
    (phi == PLAIN ? loops->plain[take] : loops->phi[phi])(p, n, c, found);
}

#define MANY 8
static void doubles(const double *p, int64_t n, int phi, const Constants *c, Found *found) {
    double sum[MANY] = {0}, squares[MANY] = {0}, slopes = 0;
    int64_t i = 0, zeros = 0, small = 0;
    for (; i + MANY <= n; i += MANY)
        for (int k = 0; k < MANY; k++) sum[k] += p[i + k], squares[k] += p[i + k] * p[i + k];
    for (; i < n; i++) sum[0] += p[i], squares[0] += p[i] * p[i];
    for (i = 0; i < n; i++) {
        zeros += p[i] == 0;
        const double s = slope_wide(p[i], phi, c);
        slopes += s * s;
        small += phi == PLAIN ? fabs(p[i]) <= c->threshold : phi == RELU ? !(p[i] > 0) : fabs(s) < c->threshold;
    }
    for (int k = 0; k < MANY; k++) found->sum += sum[k], found->squares += squares[k];
    found->slopes += slopes, found->zeros += zeros, found->small += small;
}

/* Sum of squared deviations around the mean, where they would cancel away otherwise. */
static double centred(const void *p, int64_t n, int wide, double mean) {
    double sum = 0, squares = 0;
    if (wide) {
        const double *q = p;
        for (int64_t i = 0; i < n; i++) sum += q[i] - mean, squares += (q[i] - mean) * (q[i] - mean);
    } else {
        const float *q = p;
        for (int64_t i = 0; i < n; i++) sum += q[i] - mean, squares += (q[i] - mean) * (q[i] - mean);
    }
    return squares - sum * sum / n;
}

#include "rows.h"

static PyObject *name_data_ptr, *name_dtype, *name_shape, *name_is_cpu, *name_is_contiguous, *name_is_neg;

/* 1 where an attribute is, or a method returns, what is expected; 0 where not; -1 on an error. */
static int is_such(PyObject *tensor, PyObject *name, PyObject *expected, int is_method) {
    PyObject *found = is_method ? PyObject_CallMethodNoArgs(tensor, name) : PyObject_GetAttr(tensor, name);
    if (found == NULL) return -1;
    const int same = found == expected ? 1 : is_method || expected == Py_True ? 0 : PyObject_RichCompareBool(found, expected, Py_EQ);
    Py_DECREF(found);
    return same;
}

/* 1, and the address, where the memory of a tensor can be read as that of those before it. */
static int memory_of(const Pass *self, PyObject *tensor, const void **p) {
    int fits = is_such(tensor, name_dtype, self->dtype, 0);
    if (fits == 1) fits = is_such(tensor, name_shape, self->shape, 0);
    if (fits == 1) fits = is_such(tensor, name_is_cpu, Py_True, 0);
    if (fits == 1) fits = is_such(tensor, name_is_contiguous, Py_True, 1);
    if (fits == 1) fits = is_such(tensor, name_is_neg, Py_False, 1);
    if (fits != 1) return fits;
    PyObject *address = PyObject_CallMethodNoArgs(tensor, name_data_ptr);
    if (address == NULL) return -1;
    *p = PyLong_AsVoidPtr(address);
    Py_DECREF(address);
    if (*p == NULL && PyErr_Occurred()) return -1;
    if (*p == NULL && self->entries) {
        PyErr_SetString(PyExc_ValueError, "the tensor has no memory");
        return -1;
    }
    return 1;
}

/* add(tensor, exact) -> place; -1 for a tensor of another kind than those before it. */
static PyObject *Pass_add(Pass *self, PyObject *const *given, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "add takes a tensor and whether shares are exact");
        return NULL;
    }
    const void *p;
    const int fits = memory_of(self, given[0], &p);
    if (fits != 1) return fits ? NULL : PyLong_FromLong(-1);
    const int exact = given[1] == Py_True;
    Found found = {0};
    if (self->codes && self->entries) {
        PyThreadState *state = self->entries >= RELEASE ? PyEval_SaveThread() : NULL;
        if (self->wide) doubles(p, self->entries, self->phi, &self->constants, &found);
        else floats(p, self->entries, self->phi, self->take, &self->constants, &found);
        if (state != NULL) PyEval_RestoreThread(state);
    }
    if (make_room(self) < 0) return PyErr_NoMemory();
    const Py_ssize_t place = self->size++;
    double *row = self->rows + place * self->width;
    if (self->entries) emit(self, p, &found, row);
    else memset(row, 0, self->width * sizeof(double));
    if (self->counts_dead) {
        const double all = (double)(self->outer * self->inner);
        double *share = self->shares + place * self->chosen;
        for (int64_t u = 0; u < self->chosen; u++)
            share[u] = (double)count_flat(self, p, u * self->step, exact) / all;
    }
    if (self->counts_bins) count_bins(self, p, self->bins + place * (2 * BINS + 2));
    return PyLong_FromSsize_t(place);
}

/* keep(tensor) -> number of the sample that is kept of it; -1 for a tensor of another kind. */
static PyObject *Pass_keep(Pass *self, PyObject *tensor) {
    const void *p;
    const int fits = memory_of(self, tensor, &p);
    if (fits != 1) return fits ? NULL : PyLong_FromLong(-1);
    const int64_t taken = (self->entries + self->stride - 1) / self->stride;
    const size_t size = (size_t)taken * (self->wide ? 8 : 4);
    if (self->keeping == self->room_to_keep) {
        char *kept = PyMem_Realloc(self->kept, (self->keeping + 1) * size + 1);
        if (kept == NULL) return PyErr_NoMemory();
        self->kept = kept, self->room_to_keep++;
    }
    char *to = self->kept + self->keeping * size;
    if (self->stride == 1) memcpy(to, p, size);
    else if (self->wide)
        for (int64_t i = 0; i < taken; i++) ((double *)to)[i] = ((const double *)p)[i * self->stride];
    else
        for (int64_t i = 0; i < taken; i++) ((float *)to)[i] = ((const float *)p)[i * self->stride];
    return PyLong_FromSsize_t(self->keeping++);
}

/* change(tensor, number) -> place of a row: entries and sum of squares of the sample, the same of its change. */
static PyObject *Pass_change(Pass *self, PyObject *const *given, Py_ssize_t count) {
    const Py_ssize_t number = count == 2 ? PyLong_AsSsize_t(given[1]) : -1;
    if (number < 0 || number >= self->keeping || self->width != 4) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "nothing of that number is kept");
        return NULL;
    }
    const void *p;
    const int fits = memory_of(self, given[0], &p);
    if (fits != 1) return fits ? NULL : PyLong_FromLong(-1);
    if (make_room(self) < 0) return PyErr_NoMemory();
    const int64_t taken = (self->entries + self->stride - 1) / self->stride;
    const void *before = self->kept + number * taken * (self->wide ? 8 : 4);
    double *row = self->rows + self->size * self->width;
    double found[2] = {0};
    (self->wide ? loops->change_doubles : loops->change_floats)(before, p, taken, self->stride, found);
    row[0] = row[2] = (double)taken, row[1] = found[0], row[3] = found[1];
    return PyLong_FromSsize_t(self->size++);
}

static PyObject *Pass_forget(Pass *self, PyObject *Py_UNUSED(ignored)) {
    self->keeping = 0;
    Py_RETURN_NONE;
}

static PyObject *bytes_of(const void *from, size_t count, size_t size) {
    return PyBytes_FromStringAndSize(from, (Py_ssize_t)(count * size));
}

/* taken() -> bytes of all rows and shares by unit, float64, and of bins, uint32. */
static PyObject *Pass_taken(Pass *self, PyObject *Py_UNUSED(ignored)) {
    const size_t size = (size_t)self->size;
    return Py_BuildValue("(NNN)", bytes_of(self->rows, size * self->width, sizeof(double)),
                         bytes_of(self->shares, self->counts_dead ? size * self->chosen : 0, sizeof(double)),
                         bytes_of(self->bins, self->counts_bins ? size * (2 * BINS + 2) : 0, sizeof(uint32_t)));
}

static PyObject *Pass_clear(Pass *self, PyObject *Py_UNUSED(ignored)) {
    self->size = 0;
    Py_RETURN_NONE;
}

static PyObject *Pass_size(Pass *self, void *Py_UNUSED(ignored)) { return PyLong_FromSsize_t(self->size); }

static void Pass_free(Pass *self) {
    PyMem_Free(self->by.column);
    PyMem_Free(self->passing);
    PyMem_Free(self->rows);
    PyMem_Free(self->shares);
    PyMem_Free(self->bins);
    PyMem_Free(self->kept);
    Py_XDECREF(self->dtype);
    Py_XDECREF(self->shape);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int set_columns(Pass *self, int64_t positions, int64_t stride) {
    const int64_t seen = (positions + stride - 1) / stride;
    self->by.columns = self->chosen * seen;
    self->by.column = PyMem_Malloc((self->by.columns + 1) * sizeof(int64_t));
    self->passing = PyMem_Malloc((2 * self->by.columns + 1) * sizeof(double));
    if (self->by.column == NULL || self->passing == NULL) return -1;
    int64_t c = 0;
    self->by.together = 1;
    for (int64_t p = 0; p < positions; p += stride)
        for (int64_t u = 0; u < self->chosen; u++, c++) {
            self->by.column[c] = (p / self->inner * self->units + u * self->step) * self->inner + p % self->inner;
            self->by.together = self->by.together && self->by.column[c] == c;
        }
    return 0;
}

static PyObject *Pass_new(PyTypeObject *type, PyObject *arguments, PyObject *Py_UNUSED(named)) {
    int wide, phi, dead, bins, spreads = 0;
    long long entries, stride, outer, units, inner, step, samples, positions, apart;
    double threshold, slope, shift, factor;
    PyObject *codes, *dtype, *shape;
    if (!PyArg_ParseTuple(arguments, "OOpiLLO!pp(dddd)(LLLL)(LLL)", &dtype, &shape, &wide, &phi, &entries, &stride, &PyTuple_Type, &codes,
                          &dead, &bins, &threshold, &slope, &shift, &factor, &outer, &units, &inner, &step, &samples,
                          &positions, &apart))
        return NULL;
    const Py_ssize_t count = PyTuple_GET_SIZE(codes);
    if (phi < 0 || phi >= FUNCTIONS || count > 16 || stride < 1 || step < 1 || apart < 1 || inner < 1) {
        PyErr_SetString(PyExc_ValueError, "no such pass");
        return NULL;
    }
    Pass *self = (Pass *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->dtype = Py_NewRef(dtype), self->shape = Py_NewRef(shape);
    self->wide = wide, self->phi = phi, self->counts_dead = dead, self->counts_bins = bins;
    self->entries = entries, self->stride = stride, self->codes = (int)count;
    self->constants = (Constants){threshold, slope, shift, factor};
    self->outer = outer, self->units = units, self->inner = inner, self->step = step;
    self->chosen = (units + step - 1) / step;
    for (Py_ssize_t k = 0; k < count; k++) {
        const long code = PyLong_AsLong(PyTuple_GET_ITEM(codes, k));
        if (code < 0 || (code & 7) > SPREAD_OVER || code > 15) {
            Py_DECREF(self);
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no such statistic");
            return NULL;
        }
        self->code[k] = (int)code;
        self->width += WIDTH[code & 7];
        self->take |= code == MOMENTS ? TAKE_SUM : code == ZEROS ? TAKE_ZEROS : 0;
        self->take |= code == SMALL ? TAKE_ZEROS | TAKE_SMALL : 0;
        spreads = spreads || (code & 7) == SPREAD_OVER;
    }
    if (spreads && samples > 1) {
        self->by.samples = samples;
        self->by.apart = entries / samples;
        if (set_columns(self, positions, apart) < 0) {
            Py_DECREF(self);
            return PyErr_NoMemory();
        }
    }
    return (PyObject *)self;
}

static PyMethodDef Pass_methods[] = {
    {"add", (PyCFunction)(void (*)(void))Pass_add, METH_FASTCALL, "Take the statistics of a tensor; its place."},
    {"keep", (PyCFunction)Pass_keep, METH_O, "Keep a sample of a tensor that is about to change; its number."},
    {"change", (PyCFunction)(void (*)(void))Pass_change, METH_FASTCALL, "Take what has changed; its place."},
    {"forget", (PyCFunction)Pass_forget, METH_NOARGS, "Forget what was kept."},
    {"taken", (PyCFunction)Pass_taken, METH_NOARGS, "Bytes of all rows, shares and bins."},
    {"clear", (PyCFunction)Pass_clear, METH_NOARGS, "Forget all rows."},
    {NULL},
};

static PyGetSetDef Pass_attributes[] = {
    {"size", (getter)Pass_size, NULL, "Rows taken.", NULL},
    {NULL},
};

static PyTypeObject PassType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "gradscope.probe._passes.Pass",
    .tp_basicsize = sizeof(Pass),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "One pass over tensors of one shape.",
    .tp_new = Pass_new,
    .tp_dealloc = (destructor)Pass_free,
    .tp_methods = Pass_methods,
    .tp_getset = Pass_attributes,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_passes",
    .m_doc = "Statistics of a tensor in one pass over its memory.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__passes(void) {
    name_data_ptr = PyUnicode_InternFromString("data_ptr");
    name_dtype = PyUnicode_InternFromString("dtype");
    name_shape = PyUnicode_InternFromString("shape");
    name_is_cpu = PyUnicode_InternFromString("is_cpu");
    name_is_contiguous = PyUnicode_InternFromString("is_contiguous");
    name_is_neg = PyUnicode_InternFromString("is_neg");
    loops = best_loops();
    if (PyErr_Occurred() || PyType_Ready(&PassType) < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    if (PyModule_AddObjectRef(made, "Pass", (PyObject *)&PassType) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
