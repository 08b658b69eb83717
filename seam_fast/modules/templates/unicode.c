
/* Tables of Unicode $unicode_version, as far as they can make a difference to the words of the vocabulary. All are sorted:
   kinds of characters, each from its first one to the next entry; canonical combining classes by first and last
   character; what characters are mapped to${lower_too} and decomposed, by the end in seam_pool; and pairs that compose. */
$unicode_tables

typedef struct {
    const unsigned char *text;
    size_t length, at, begin; /* after the character that is given out, and where that begins */
    int next, last;           /* what is left of it in seam_pool */$cursor_fields
} seam_cursor;

/* The entry of a sorted table that is the last one not above the code; -1 where all are. */
static int seam_find(const uint32_t *table, int size, uint32_t code)
{
    int low = -1, high = size;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (table[middle] <= code)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int seam_kind(uint32_t code)
{
    return (int)(seam_kinds[seam_find(seam_kinds, SEAM_KINDS, code << 2 | 3)] & 3);
}

/* The canonical combining class: 0 of a starter, above that of a mark that stands with the starter before it. */
static int seam_class(uint32_t code)
{
    int k = code < SEAM_FIRST_MARK ? -1 : seam_find(seam_mark_first, SEAM_MARKS, code);
    return k >= 0 && code <= seam_mark_last[k] ? seam_mark_class[k] : 0;
}

/* What two characters compose to, the first one being a starter; 0 for nothing. */
static uint32_t seam_pair(uint32_t first, uint32_t second)
{
$hangul_pair    int low = 0, high = SEAM_PAIRS;
    while (low < high) {
        int middle = (low + high) / 2;
        const uint32_t *pair = seam_pairs[middle];
        if (pair[0] == first && pair[1] == second)
            return pair[2];
        if (pair[0] < first || (pair[0] == first && pair[1] < second))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}
$sigma
/* The next character$in_lower_case, decomposed; SEAM_NONE at the end. */
static uint32_t seam_next(seam_cursor *cursor)
{
    if (cursor->next < cursor->last)
        return seam_pool[cursor->next++];
    if (cursor->at == cursor->length)
        return SEAM_NONE;
    cursor->begin = cursor->at;
    uint32_t code = seam_character(cursor->text, cursor->length, &cursor->at);
$next_code    if (code < SEAM_FIRST_MAPPED)
        return code;
    int k = seam_find(seam_mapped, SEAM_MAPPED, code);
    if (k < 0 || seam_mapped[k] != code)
        return code;
    cursor->next = k ? seam_mapped_end[k - 1] : 0;
    cursor->last = seam_mapped_end[k];
    return seam_pool[cursor->next++];
}

/* The smallest class above a given one of the marks from a place on; 0 where there is none. */
static int seam_next_class(seam_cursor cursor, long marks, int above)
{
    int found = 0;
    while (marks--) {
        int class = seam_class(seam_next(&cursor));
        if (class > above && (found == 0 || class < found))
            found = class;
    }
    return found;
}
$emit
/* Rule "$rule": splits the text in Unicode's composed form (NFC), which is made on the way. Marks may be as many as they
   like, since they are not stored: sorting them by class means to read them once for each class. */
static void seam_split(seam_reader *reader, const unsigned char *text, size_t length)
{
    seam_cursor cursor = {0};
    cursor.text = text;
    cursor.length = length;
    for (;;) {
        seam_cursor before = cursor, after;
        uint32_t starter = seam_next(&cursor);
        if (starter == SEAM_NONE)
            break;
        size_t begin = cursor.begin;
        if (starter < 0x80 && cursor.next == cursor.last && (cursor.at == length || text[cursor.at] < 0x80)) {
            /* a mark cannot follow, and ASCII does not compose with ASCII */
            if (seam_emit(reader, starter, begin, cursor.at))
                return;
            continue;
        }
        if (seam_class(starter)) { /* marks without a starter, at the very beginning */
            cursor = before;
            starter = SEAM_NONE;
        }
        long marks, composed[SEAM_LONGEST_FORM];
        int used;
        for (;;) {
            uint32_t code;
            for (marks = 0, after = cursor; before = after, code = seam_next(&after), code != SEAM_NONE; marks++)
                if (!seam_class(code))
                    break;
            used = 0; /* marks that went into the starter */
            for (int class = 0; starter != SEAM_NONE && (class = seam_next_class(cursor, marks, class)) != 0;) {
                seam_cursor mark = cursor;
                for (long k = 0; k < marks; k++) {
                    uint32_t other = seam_next(&mark), made;
                    if (seam_class(other) != class)
                        continue;
                    made = seam_pair(starter, other);
                    if (made == 0)
                        break; /* it is in the way of all others of its class */
                    starter = made;
                    composed[used++] = k;
                }
            }
            uint32_t made = used == marks && starter != SEAM_NONE && code != SEAM_NONE ? seam_pair(starter, code) : 0;
            if (made == 0)
                break;
            starter = made; /* with the starter that follows it at once */
            cursor = after;
        }
        if (starter != SEAM_NONE && seam_emit(reader, starter, begin, before.at))
            return;
        for (int class = 0; marks > used && (class = seam_next_class(cursor, marks, class)) != 0;) {
            seam_cursor mark = cursor;
            for (long k = 0; k < marks; k++) {
                uint32_t other = seam_next(&mark);
                int gone = seam_class(other) != class;
                for (int n = 0; n < used; n++)
                    gone |= composed[n] == k;
                if (!gone && seam_emit(reader, other, mark.begin, mark.at))
                    return;
            }
        }
        cursor = before;
    }
    seam_end(reader, length);
}
