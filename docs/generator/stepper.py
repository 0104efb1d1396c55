def page(site, page):
    return ""
