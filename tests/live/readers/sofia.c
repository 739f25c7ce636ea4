/* What sofia-sip reads in the SIP request on standard input: a line `where name value` for each header, the value in
 * hexadecimal. `where` is `head`, or `uri` for a header inside the URI of Refer-To. */

#include <stdio.h>
#include <string.h>

#include <sofia-sip/msg_header.h>
#include <sofia-sip/sip.h>
#include <sofia-sip/sip_header.h>
#include <sofia-sip/sip_parser.h>
#include <sofia-sip/sip_util.h>
#include <sofia-sip/su_alloc.h>
#include <sofia-sip/url.h>

static void tell(char const *where, char const *name, char const *value) {
    printf("%s %s ", where, name);
    for (; *value; value++) printf("%02x", (unsigned char)*value);
    printf("\n");
}

static void tell_unknown(char const *where, sip_t const *sip) {
    for (sip_unknown_t const *one = sip->sip_unknown; one; one = one->un_next) tell(where, one->un_name, one->un_value);
}

int main(void) {
    static char octets[65536];
    size_t length = fread(octets, 1, sizeof octets - 1, stdin);
    su_home_t home[1] = {SU_HOME_INIT(home)};
    su_home_init(home);

    msg_t *message = msg_make(sip_default_mclass(), 0, octets, length);
    sip_t *sip = sip_object(message);
    if (!sip || sip->sip_error || sip_sanity_check(sip) < 0) return 1;
    tell_unknown("head", sip);
    for (sip_reason_t *one = sip->sip_reason; one; one = one->re_next)
        tell("head", "Reason", sip_header_as_string(home, (sip_header_t *)one));
    if (!sip->sip_refer_to || !sip->sip_refer_to->r_url->url_headers) return 0;

    /* As for the INVITE that it asks for. */
    char *text = url_query_as_header_string(home, sip->sip_refer_to->r_url->url_headers);
    msg_t *asked = msg_create(sip_default_mclass(), 0);
    if (!text || msg_header_parse_str(asked, (msg_pub_t *)sip_object(asked), text) < 0) return 1;
    tell_unknown("uri", sip_object(asked));
    return 0;
}
