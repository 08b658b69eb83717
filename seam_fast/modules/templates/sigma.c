
/* Whether a capital sigma after which the cursor stands is the last letter of a word: a cased letter is before it and
   none follows, characters that case ignores aside. */
static int seam_is_final(const seam_cursor *cursor)
{
    size_t at = cursor->at;
    while (cursor->cased && at < cursor->length) {
        int kind = seam_case(seam_character(cursor->text, cursor->length, &at));
        if (kind != 2)
            return kind == 0;
    }
    return cursor->cased;
}
