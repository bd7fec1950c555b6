/* Counts what an AArch64 program does between two marks: executed instructions by class, and
 * the misses of a simulated cache hierarchy. A plugin for user-mode QEMU (plugin API 1).
 *
 * The program marks with a system call that no kernel has: syscall(MARK_SYSCALL, command).
 *   MARK_START  forget what was counted (not what is cached) and count from here
 *   MARK_CLOCK  the same, and report at every clock_gettime until the end: the runtime's
 *               profiler reads the clock when an operator begins and when it ends
 *   MARK_END    report and stop
 * A report is one line in the file given as out=PATH:
 *   <command> <nanoseconds of CLOCK_REALTIME> <one number for each name of the first line>
 *
 * Arguments: out=PATH and, from the core outwards, cache=<KB>:<ways> once per level.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The part of QEMU's plugin interface that is used here, as its manual describes it. */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
typedef void (*translate_fn)(plugin_id, struct qemu_plugin_tb *);
typedef void (*access_fn)(unsigned int vcpu, uint32_t info, uint64_t address, void *data);
typedef void (*syscall_fn)(plugin_id, unsigned int vcpu, int64_t number, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
enum { INLINE_ADD = 0, NO_REGISTERS = 0, READS_AND_WRITES = 3 };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translate_fn);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int op, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, access_fn, int flags, int rw,
                                      void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, syscall_fn);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { MARK_SYSCALL = 23063, MARK_START = 1, MARK_CLOCK = 2, MARK_END = 3 };
enum { CLOCK_GETTIME = 113 }; /* of the AArch64 Linux table */

/* ---- instruction classes ------------------------------------------------------------- */

enum class {
    FMLA32, FMLA16, DOT, MMLA, IMUL_W, ADALP, VLOAD, VSTORE, SLOAD, SSTORE, SIMD_OTHER, BRANCH,
    INT, CLASSES
};
static const char *const class_names[CLASSES] = {
    "fmla32", "fmla16", "dot", "mmla", "imul_w", "adalp", "vload", "vstore", "sload", "sstore",
    "simd_other", "branch", "int"};

/* Encodings of the vector instructions that multiply, from the A64 index by encoding of the
 * Arm Architecture Reference Manual. An instruction belongs to the first row that fits. */
static const struct {
    uint32_t mask, bits;
    enum class class;
} multiplies[] = {
    {0xBFA0FC00, 0x0E20CC00, FMLA32}, /* FMLA (vector), single and double */
    {0xBFA0FC00, 0x0EA0CC00, FMLA32}, /* FMLS (vector) */
    {0xBF80B400, 0x0F801000, FMLA32}, /* FMLA and FMLS (by element) */
    {0xBFE0FC00, 0x0E400C00, FMLA16}, /* FMLA (vector), half */
    {0xBFC0B400, 0x0F001000, FMLA16}, /* FMLA and FMLS (by element), half */
    {0x9FE0FC00, 0x0E809400, DOT},    /* SDOT and UDOT (vector) */
    {0x9FC0F400, 0x0F80E000, DOT},    /* SDOT and UDOT (by element) */
    {0xDFE0F400, 0x4E80A400, MMLA},   /* SMMLA, UMMLA, USMMLA */
    {0x9F20DC00, 0x0E208000, IMUL_W}, /* SMLAL, UMLAL, SMLSL, UMLSL */
    {0x9F20FC00, 0x0E20C000, IMUL_W}, /* SMULL, UMULL */
    {0x9F00F400, 0x0F002000, IMUL_W}, /* SMLAL, UMLAL (by element) */
    {0x9F00F400, 0x0F00A000, IMUL_W}, /* SMULL, UMULL (by element) */
    {0xBF20F400, 0x0E209400, IMUL_W}, /* MLA and MUL (vector) */
    {0x9F3FFC00, 0x0E206800, ADALP},  /* SADALP, UADALP */
};

static enum class classify(uint32_t word)
{
    if ((word & 0x0A000000) == 0x08000000) { /* loads and stores */
        bool vector = word & 1u << 26;
        bool pair = (word & 0x3A000000) == 0x28000000;
        bool loads = word & 1u << 22;
        if (vector)
            return loads ? VLOAD : VSTORE;
        if (!pair)
            loads = word & 3u << 22; /* sign-extending loads have only the upper bit */
        return loads ? SLOAD : SSTORE;
    }
    if ((word & 0x1C000000) == 0x14000000)
        return BRANCH;
    if ((word & 0x0E000000) != 0x0E000000)
        return INT;
    for (size_t row = 0; row < sizeof multiplies / sizeof *multiplies; row++)
        if ((word & multiplies[row].mask) == multiplies[row].bits)
            return multiplies[row].class;
    return SIMD_OTHER;
}

/* ---- translated blocks: how often each ran, and what is in it --------------------------- */

enum { CHUNK = 8192 };
static struct chunk {
    uint64_t runs[CHUNK]; /* the emulator adds to these inline: they never move */
    uint16_t held[CHUNK][CLASSES];
    int used;
    struct chunk *next;
} *chunks;

/* ---- caches: least recently used, 64-byte lines, a miss goes on to the next level -------- */

enum { LEVELS = 3, LINE_SHIFT = 6 };
static struct cache {
    uint64_t sets, ways;
    uint64_t *lines; /* sets of ways, most recently used first; line number + 1, 0 is empty */
} caches[LEVELS];
static int levels;
static uint64_t accesses, misses[LEVELS], streams[LEVELS];
static bool counting, at_clock;
static FILE *out;

static uint64_t *set_of(const struct cache *cache, uint64_t line)
{
    return cache->lines + (line & (cache->sets - 1)) * cache->ways;
}

static bool contains(const struct cache *cache, uint64_t line)
{
    const uint64_t *set = set_of(cache, line);
    for (uint64_t way = 0; way < cache->ways; way++)
        if (set[way] == line + 1)
            return true;
    return false;
}

/* Makes line the most recently used of its set; whether it was there. */
static bool use(const struct cache *cache, uint64_t line)
{
    uint64_t *set = set_of(cache, line), wanted = line + 1, moved = set[0];
    if (moved == wanted)
        return true;
    set[0] = wanted;
    for (uint64_t way = 1; way < cache->ways; way++) {
        uint64_t here = set[way];
        set[way] = moved;
        if (here == wanted)
            return true;
        moved = here;
    }
    return false;
}

static void on_access(unsigned int vcpu, uint32_t info, uint64_t address, void *data)
{
    (void)vcpu, (void)info, (void)data;
    if (!counting)
        return;
    accesses++;
    uint64_t line = address >> LINE_SHIFT;
    for (int level = 0; level < levels && !use(&caches[level], line); level++) {
        misses[level]++;
        /* The line before is there: a stream, which a prefetcher would have seen coming. */
        streams[level] += contains(&caches[level], line - 1);
    }
}

static void on_translate(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    if (!chunks || chunks->used == CHUNK) {
        struct chunk *fresh = calloc(1, sizeof *fresh);
        if (!fresh) {
            fputs("counts: out of memory\n", stderr);
            abort();
        }
        fresh->next = chunks;
        chunks = fresh;
    }
    int block = chunks->used++;
    for (size_t i = 0, n = qemu_plugin_tb_n_insns(tb); i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
        enum class class = classify(word);
        chunks->held[block][class]++;
        if (levels && class >= VLOAD && class <= SSTORE)
            qemu_plugin_register_vcpu_mem_cb(insn, on_access, NO_REGISTERS, READS_AND_WRITES,
                                             NULL);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD, &chunks->runs[block], 1);
}

/* ---- marks and reports ------------------------------------------------------------------ */

static void report(int command)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t counts[CLASSES] = {0}, total = 0;
    for (const struct chunk *chunk = chunks; chunk; chunk = chunk->next)
        for (int block = 0; block < chunk->used; block++)
            if (chunk->runs[block])
                for (int class = 0; class < CLASSES; class++)
                    counts[class] += chunk->runs[block] * chunk->held[block][class];
    for (int class = 0; class < CLASSES; class++)
        total += counts[class];
    fprintf(out, "%d %lld %llu", command, now.tv_sec * 1000000000LL + now.tv_nsec,
            (unsigned long long)total);
    for (int class = 0; class < CLASSES; class++)
        fprintf(out, " %llu", (unsigned long long)counts[class]);
    fprintf(out, " %llu", (unsigned long long)accesses);
    for (int level = 0; level < LEVELS; level++)
        fprintf(out, " %llu", (unsigned long long)misses[level]);
    for (int level = 0; level < LEVELS; level++)
        fprintf(out, " %llu", (unsigned long long)streams[level]);
    fputc('\n', out);
}

static void on_syscall(plugin_id id, unsigned int vcpu, int64_t number, uint64_t command,
                       uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                       uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == CLOCK_GETTIME && at_clock)
        report(MARK_CLOCK);
    if (number != MARK_SYSCALL)
        return;
    if (command == MARK_END) {
        report(MARK_END);
        fflush(out);
        counting = at_clock = false;
        return;
    }
    for (struct chunk *chunk = chunks; chunk; chunk = chunk->next)
        memset(chunk->runs, 0, sizeof chunk->runs);
    accesses = 0;
    memset(misses, 0, sizeof misses);
    memset(streams, 0, sizeof streams);
    counting = true;
    at_clock = command == MARK_CLOCK;
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info,
                                                               int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        unsigned int kilobytes, ways;
        if (strncmp(argv[i], "out=", 4) == 0) {
            out = fopen(argv[i] + 4, "w");
        } else if (levels < LEVELS && sscanf(argv[i], "cache=%u:%u", &kilobytes, &ways) == 2) {
            struct cache *cache = &caches[levels++];
            uint64_t lines = kilobytes * 1024ull >> LINE_SHIFT;
            cache->ways = ways;
            cache->sets = lines / ways;
            cache->lines = calloc(lines, sizeof *cache->lines);
            if (!cache->lines || cache->sets & (cache->sets - 1)) {
                fprintf(stderr, "counts: the sets of %s must be a power of two\n", argv[i]);
                return 1;
            }
        } else {
            fprintf(stderr, "counts: unknown argument %s\n", argv[i]);
            return 1;
        }
    }
    if (!out) {
        fputs("counts: out=PATH must name a file that can be written\n", stderr);
        return 1;
    }
    fputs("total", out);
    for (int class = 0; class < CLASSES; class++)
        fprintf(out, " %s", class_names[class]);
    fputs(" acc l1m l2m l3m l1s l2s l3s\n", out);
    fflush(out);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
