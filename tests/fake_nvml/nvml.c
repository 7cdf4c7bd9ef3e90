/* A libnvidia-ml.so.1 whose devices are described by the file that CELERAY_FAKE_NVML_STATE names.
 *
 * The file is read again at each call, under a shared lock; its writers hold the lock exclusively. Its lines are
 * `key=value`; `device=UUID` and `mig=UUID` (a slice of the device above) open a section, and what comes before the
 * first of them belongs to the driver:
 *
 *     driver=550.54.15      error.FUNCTION=CODE (any function, by its exported name)
 *   in a section:
 *     name= total= reserved= used=          bytes; `used` is held by nobody that is listed
 *     process=PID BYTES [graphics]          counted and listed while the process lives; BYTES -1: N/A
 *     utilization= temperature= power= compute_mode= ecc= remap_pending= remap_failed= retired_pending= recovery=
 *     mig_mode= lost= error.FUNCTION=CODE
 *     pcie=UUID LEVEL (common ancestor with another device, in one of the two sections)
 *     link=UUID|switch|off, the first one is NVLink 0
 *     events=MASK (kinds that can be told)  xid=NUMBER, each told once to each event set, if it came after its making
 *
 * A value that a section leaves out is NOT_SUPPORTED on that device, as it is on cards without the feature.
 * -DOLD_DRIVER leaves out the functions that drivers before 510 lack.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       TIMEOUT = 10,       GPU_IS_LOST = 15, ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999 };

#define MAX_SECTIONS 64
#define MAX_LINES 2048
#define MEMORY_V2 0x02000028u
enum { KEEPS_LISTED = 1, KEEPS_UNLISTED = 2 };

typedef struct { char key[96]; char value[160]; } line_t;
typedef struct { int parent; int first; int count; char uuid[96]; } section_t;
typedef struct { line_t lines[MAX_LINES]; int line_count; section_t sections[MAX_SECTIONS]; int section_count; } state_t;

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef struct { uint32_t field, scope; int64_t timestamp, latency; unsigned type; int result; union {
    double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } value; } field_t;

static int initialized = 0;

/* Section 0 is the driver's own; a handle is the section's number. */
static int load(state_t *state) {
    const char *path = getenv("CELERAY_FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char text[512];
    memset(state->sections, 0, sizeof state->sections);
    state->line_count = 0;
    state->section_count = 1;
    state->sections[0].parent = -1;
    if (!file) return UNKNOWN;
    flock(fileno(file), LOCK_SH);
    while (fgets(text, sizeof text, file) && state->line_count < MAX_LINES) {
        char *equals = strchr(text, '=');
        section_t *section = &state->sections[state->section_count - 1];
        if (!equals) continue;
        *equals = 0;
        equals[1 + strcspn(equals + 1, "\n")] = 0;
        if (!strcmp(text, "device") || !strcmp(text, "mig")) {
            int mig = text[0] == 'm', parent = -1;
            if (state->section_count == MAX_SECTIONS) break;
            if (mig) for (parent = state->section_count - 1; state->sections[parent].parent >= 0; parent--);
            section = &state->sections[state->section_count++];
            section->parent = mig ? parent : -1;
            section->first = state->line_count;
            snprintf(section->uuid, sizeof section->uuid, "%s", equals + 1);
            continue;
        }
        snprintf(state->lines[state->line_count].key, sizeof state->lines[0].key, "%.95s", text);
        snprintf(state->lines[state->line_count].value, sizeof state->lines[0].value, "%.159s", equals + 1);
        state->line_count++;
        section->count++;
    }
    fclose(file);
    return SUCCESS;
}

static const char *find(const state_t *state, int section, const char *key) {
    const section_t *s = &state->sections[section];
    for (int i = s->first; i < s->first + s->count; i++)
        if (!strcmp(state->lines[i].key, key)) return state->lines[i].value;
    return NULL;
}

static int number(const state_t *state, int section, const char *key, long long *value) {
    const char *text = find(state, section, key);
    if (!text) return NOT_SUPPORTED;
    *value = atoll(text);
    return SUCCESS;
}

/* Errors that the file asks for; then whether the section exists and its device answers. */
static int begin(state_t *state, const char *function, uintptr_t handle) {
    char key[96];
    const char *code;
    int result = load(state);
    if (!initialized) return UNINITIALIZED;
    if (result) return result;
    snprintf(key, sizeof key, "error.%s", function);
    if ((code = find(state, 0, key))) return atoi(code);
    if (handle >= (uintptr_t)state->section_count) return INVALID_ARGUMENT;
    if (handle == 0) return SUCCESS;
    if ((code = find(state, (int)handle, key))) return atoi(code);
    long long lost = 0;
    number(state, (int)handle, "lost", &lost);
    return lost ? GPU_IS_LOST : SUCCESS;
}

static _Thread_local state_t state;

#define BEGIN(handle) int result = begin(&state, __func__, (uintptr_t)(handle)); \
    if (result) return result
#define SECTION(handle) ((int)(uintptr_t)(handle))

static int alive(long long pid) {
    char path[64], text[512], *paren;
    snprintf(path, sizeof path, "/proc/%lld/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    paren = strrchr(text, ')');
    return paren && paren[2] != 'Z' && paren[2] != 'X';
}

static unsigned processes(const state_t *state, int section, int graphics, process_t *out, unsigned room) {
    const section_t *s = &state->sections[section];
    unsigned count = 0;
    long long keeps = 0;
    number(state, section, "keeps_dead", &keeps);
    for (int i = s->first; i < s->first + s->count; i++) {
        long long pid = 0, bytes = 0;
        if (strcmp(state->lines[i].key, "process")) continue;
        sscanf(state->lines[i].value, "%lld %lld", &pid, &bytes);
        if ((strstr(state->lines[i].value, "graphics") != NULL) != graphics) continue;
        if (!alive(pid) && keeps != KEEPS_LISTED) continue;
        if (out && count < room) out[count] = (process_t){(unsigned)pid, (unsigned long long)bytes, ~0u, ~0u};
        count++;
    }
    return count;
}

/* What a driver keeps of dead processes without listing them. */
static long long kept(const state_t *state, int section) {
    const section_t *s = &state->sections[section];
    long long keeps = 0, sum = 0;
    number(state, section, "keeps_dead", &keeps);
    for (int i = s->first; keeps == KEEPS_UNLISTED && i < s->first + s->count; i++) {
        long long pid = 0, bytes = 0;
        if (strcmp(state->lines[i].key, "process")) continue;
        if (sscanf(state->lines[i].value, "%lld %lld", &pid, &bytes) == 2 && bytes > 0 && !alive(pid)) sum += bytes;
    }
    return sum;
}

static int memory(const state_t *state, int section, memory_v2_t *out) {
    long long total, reserved = 0, used = 0;
    process_t list[256];
    if (number(state, section, "total", &total)) return NOT_SUPPORTED;
    number(state, section, "reserved", &reserved);
    number(state, section, "used", &used);
    used += kept(state, section);
    for (int graphics = 0; graphics < 2; graphics++) {
        unsigned count = processes(state, section, graphics, list, 256);
        for (unsigned i = 0; i < count && i < 256; i++) if (list[i].used != ~0ull) used += (long long)list[i].used;
    }
    out->total = (unsigned long long)total;
    out->reserved = (unsigned long long)reserved;
    out->used = (unsigned long long)used;
    out->free = out->total > out->used + out->reserved ? out->total - out->used - out->reserved : 0;
    return SUCCESS;
}

static int unsigned_value(const state_t *state, int section, const char *key, unsigned *out) {
    long long value = 0;
    int result = number(state, section, key, &value);
    *out = (unsigned)value;
    return result;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    initialized = 1;
    int result = begin(&state, __func__, 0);
    initialized = result == SUCCESS;
    return result;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { initialized = 0; return SUCCESS; }
const char *nvmlErrorString(int result) { static _Thread_local char text[32]; snprintf(text, 32, "error %d", result); return text; }

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    BEGIN(0);
    const char *version = find(&state, 0, "driver");
    snprintf(out, size, "%s", version ? version : "0");
    return SUCCESS;
}
int nvmlSystemGetCudaDriverVersion_v2(int *out) { BEGIN(0); *out = 12040; return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *out) {
    BEGIN(0);
    *out = 0;
    for (int i = 1; i < state.section_count; i++) *out += state.sections[i].parent < 0;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    BEGIN(0);
    for (int i = 1; i < state.section_count; i++) {
        if (state.sections[i].parent >= 0 || index-- > 0) continue;
        *out = (void *)(uintptr_t)i;
        return begin(&state, __func__, (uintptr_t)i);
    }
    return INVALID_ARGUMENT;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
    BEGIN(0);
    for (int i = 1; i < state.section_count; i++)
        if (!strcmp(state.sections[i].uuid, uuid)) { *out = (void *)(uintptr_t)i; return begin(&state, __func__, (uintptr_t)i); }
    return NOT_FOUND;
}
int nvmlDeviceGetIndex(void *handle, unsigned *out) {
    BEGIN(handle);
    *out = 0;
    for (int i = 1; i < SECTION(handle); i++) *out += state.sections[i].parent < 0;
    return SUCCESS;
}
int nvmlDeviceGetMinorNumber(void *handle, unsigned *out) { return nvmlDeviceGetIndex(handle, out); }
int nvmlDeviceGetUUID(void *handle, char *out, unsigned size) {
    BEGIN(handle);
    snprintf(out, size, "%s", state.sections[SECTION(handle)].uuid);
    return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *out, unsigned size) {
    BEGIN(handle);
    const char *name = find(&state, SECTION(handle), "name");
    if (!name) return NOT_SUPPORTED;
    snprintf(out, size, "%s", name);
    return SUCCESS;
}
int nvmlDeviceGetPciInfo_v3(void *handle, pci_t *out) {
    BEGIN(handle);
    memset(out, 0, sizeof *out);
    out->bus = (unsigned)SECTION(handle);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *out) {
    BEGIN(handle);
    memory_v2_t info;
    if ((result = memory(&state, SECTION(handle), &info))) return result;
    *out = (memory_t){info.total, info.free, info.used + info.reserved};
    return SUCCESS;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2_t *out) {
    BEGIN(handle);
    if (out->version != MEMORY_V2) return ARGUMENT_VERSION_MISMATCH;
    return memory(&state, SECTION(handle), out);
}
static int running(const state_t *state, int section, int graphics, unsigned *count, process_t *out) {
    unsigned found = processes(state, section, graphics, out, out ? *count : 0), room = *count;
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *out) {
    BEGIN(handle);
    return running(&state, SECTION(handle), 0, count, out);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *out) {
    BEGIN(handle);
    return running(&state, SECTION(handle), 1, count, out);
}
int nvmlDeviceGetFieldValues(void *handle, int count, field_t *fields) {
    BEGIN(handle);
    for (int i = 0; i < count; i++) {
        fields[i].type = 1;
        fields[i].result = fields[i].field == 230
            ? unsigned_value(&state, SECTION(handle), "recovery", &fields[i].value.ui) : NOT_SUPPORTED;
    }
    return SUCCESS;
}
#endif
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *out) {
    BEGIN(handle);
    out->memory = 0;
    return unsigned_value(&state, SECTION(handle), "utilization", &out->gpu);
}
int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *out) {
    BEGIN(handle);
    (void)sensor;
    return unsigned_value(&state, SECTION(handle), "temperature", out);
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *out) { BEGIN(handle); return unsigned_value(&state, SECTION(handle), "power", out); }
int nvmlDeviceGetComputeMode(void *handle, unsigned *out) { BEGIN(handle); return unsigned_value(&state, SECTION(handle), "compute_mode", out); }
int nvmlDeviceGetTotalEccErrors(void *handle, unsigned type, unsigned counter, unsigned long long *out) {
    BEGIN(handle);
    unsigned value = 0;
    (void)type; (void)counter;
    result = unsigned_value(&state, SECTION(handle), "ecc", &value);
    *out = value;
    return result;
}
int nvmlDeviceGetRemappedRows(void *handle, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    BEGIN(handle);
    *corrected = *uncorrected = 0;
    if ((result = unsigned_value(&state, SECTION(handle), "remap_pending", pending))) return result;
    return unsigned_value(&state, SECTION(handle), "remap_failed", failed);
}
int nvmlDeviceGetRetiredPagesPendingStatus(void *handle, unsigned *out) {
    BEGIN(handle);
    return unsigned_value(&state, SECTION(handle), "retired_pending", out);
}
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    BEGIN(handle);
    result = unsigned_value(&state, SECTION(handle), "mig_mode", current);
    *pending = *current;
    return result;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *out) { BEGIN(handle); *out = 7; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **out) {
    BEGIN(handle);
    for (int i = 1; i < state.section_count; i++) {
        if (state.sections[i].parent != SECTION(handle) || index-- > 0) continue;
        *out = (void *)(uintptr_t)i;
        return SUCCESS;
    }
    return NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **out) {
    BEGIN(handle);
    if (state.sections[SECTION(handle)].parent < 0) return INVALID_ARGUMENT;
    *out = (void *)(uintptr_t)state.sections[SECTION(handle)].parent;
    return SUCCESS;
}
int nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *out) {
    BEGIN(handle);
    *out = state.sections[SECTION(handle)].parent >= 0;
    return SUCCESS;
}
static const char *nth(const state_t *state, int section, const char *key, int n);

static int common_ancestor(const state_t *state, int section, int other, unsigned *out) {
    const char *value, *uuid = state->sections[other].uuid;
    size_t length = strlen(uuid);
    for (int i = 0; (value = nth(state, section, "pcie", i)); i++)
        if (!strncmp(value, uuid, length) && value[length] == ' ') { *out = (unsigned)atoi(value + length); return SUCCESS; }
    return NOT_SUPPORTED;
}
int nvmlDeviceGetTopologyCommonAncestor(void *handle, void *other, unsigned *out) {
    BEGIN(handle);
    if ((result = begin(&state, __func__, (uintptr_t)other))) return result;
    if (!common_ancestor(&state, SECTION(handle), SECTION(other), out)) return SUCCESS;
    return common_ancestor(&state, SECTION(other), SECTION(handle), out);
}
/* A card without links has none at all; one that has some knows no number above. */
static int link_end(const state_t *state, int section, unsigned link, const char **out) {
    if (!nth(state, section, "link", 0)) return NOT_SUPPORTED;
    return (*out = nth(state, section, "link", (int)link)) ? SUCCESS : INVALID_ARGUMENT;
}
int nvmlDeviceGetNvLinkState(void *handle, unsigned link, unsigned *out) {
    BEGIN(handle);
    const char *end;
    if ((result = link_end(&state, SECTION(handle), link, &end))) return result;
    *out = strcmp(end, "off") != 0;
    return SUCCESS;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned link, pci_t *out) {
    BEGIN(handle);
    const char *end;
    if ((result = link_end(&state, SECTION(handle), link, &end))) return result;
    memset(out, 0, sizeof *out);
    out->bus = 0xf0;
    for (int i = 1; i < state.section_count; i++) if (!strcmp(state.sections[i].uuid, end)) out->bus = (unsigned)i;
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
    return SUCCESS;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned link, unsigned *out) {
    BEGIN(handle);
    const char *end;
    if ((result = link_end(&state, SECTION(handle), link, &end))) return result;
    *out = strcmp(end, "switch") ? 0 : 2;
    return SUCCESS;
}
#endif
typedef struct { void *device; unsigned long type, data; unsigned gpu_instance, compute_instance; } event_t;
typedef struct { int heard[MAX_SECTIONS], told[MAX_SECTIONS]; } set_t;

static const char *nth(const state_t *state, int section, const char *key, int n) {
    const section_t *s = &state->sections[section];
    for (int i = s->first; i < s->first + s->count; i++)
        if (!strcmp(state->lines[i].key, key) && n-- == 0) return state->lines[i].value;
    return NULL;
}
int nvmlEventSetCreate(void **out) { BEGIN(0); *out = calloc(1, sizeof(set_t)); return SUCCESS; }
int nvmlEventSetFree(void *set) { free(set); return SUCCESS; }
int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *out) {
    BEGIN(handle);
    unsigned value = 0;
    result = unsigned_value(&state, SECTION(handle), "events", &value);
    *out = value;
    return result;
}
int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, void *events) {
    BEGIN(handle);
    set_t *set = events;
    (void)types;
    set->heard[SECTION(handle)] = 1;
    while (nth(&state, SECTION(handle), "xid", set->told[SECTION(handle)])) set->told[SECTION(handle)]++;
    return SUCCESS;
}
/* Blocks until its timeout, as the real one: a caller that relies on it would spin otherwise. */
int nvmlEventSetWait_v2(void *events, event_t *out, unsigned timeout_ms) {
    set_t *set = events;
    for (unsigned waited = 0;; waited += 10) {
        BEGIN(0);
        for (int i = 1; i < state.section_count; i++) {
            const char *xid = set->heard[i] ? nth(&state, i, "xid", set->told[i]) : NULL;
            if (!xid) continue;
            set->told[i]++;
            *out = (event_t){(void *)(uintptr_t)i, 8, strtoul(xid, NULL, 10), ~0u, ~0u};
            return SUCCESS;
        }
        if (waited >= timeout_ms) return TIMEOUT;
        usleep(10000);
    }
}
int nvmlDeviceGetProcessesUtilizationInfo(void *handle, void *out) { BEGIN(handle); (void)out; return NOT_SUPPORTED; }
