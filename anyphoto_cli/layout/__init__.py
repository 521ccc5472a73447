"""Who stands where: the layout file and the location canvases (paper 3.1, Eq. 12, and appendix A.3). No torch here."""
